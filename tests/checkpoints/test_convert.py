"""What bitsandbytes and torchao saved is decoded to the last bit, and training goes on as it would there."""

import copy
import re

import pytest
import torch
from torch import Tensor

import fallline
from fallline.checkpoints import from_bitsandbytes, from_torchao
from fallline.core.errors import CheckpointMismatch

from .quantized import STEPS, packed, read

RECORDED = {"bitsandbytes": read("bitsandbytes"), "torchao": read("torchao")}

#: The same rule here and in torch, for each optimizer recorded; bitsandbytes' Adam decouples weight decay.
ADAMS = ["Adam", "AdamW"]
SAME_RULE = {
    "bitsandbytes": {
        "AdamW8bit": ADAMS, "Adam8bit": ADAMS, "Adam32bit": ADAMS, "SGD8bit": ["SGD"], "SGD32bit": ["SGD"],
        "RMSprop8bit": ["RMSprop"], "RMSprop32bit": ["RMSprop"], "Adagrad8bit": ["Adagrad"],
    },
    "torchao": {"AdamW8bit": ["AdamW"], "Adam4bit": ["Adam"], "AdamWFp8": ["AdamW"]},
}  # fmt: skip
NEXT_STEPS = [
    (package, recorded, name, home)
    for package, rules in SAME_RULE.items()
    for recorded, names in rules.items()
    for name in names
    for home in (fallline, torch.optim)
]
SLOTS = {
    "Adam": ["exp_avg", "exp_avg_sq"], "Lion": ["exp_avg"], "SGD": ["momentum_buffer"],
    "RMSprop": ["square_avg"], "Adagrad": ["sum"],
}  # fmt: skip


class Quantized(Tensor):
    """A tensor of torchao as it lies in a state dict, when none of its operations can be used."""

    @staticmethod
    def __new__(cls, parts: dict[str, Tensor], shape: list[int]):
        return Tensor._make_wrapper_subclass(cls, torch.Size(shape), dtype=torch.bfloat16)

    def __init__(self, parts, shape):
        self.__dict__.update(parts)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(f"{func} is an operation of torchao")


def saved_by(package, name):
    """Return the recorded state dict as the package returned it."""
    saved = copy.deepcopy(RECORDED[package][name]["saved"])
    for entry in saved["state"].values():
        for key, value in entry.items():
            if isinstance(value, dict) and "quantized" in value:
                entry[key] = Quantized(value["quantized"], value["shape"])
    return saved


def converted(package, name):
    return {"bitsandbytes": from_bitsandbytes, "torchao": from_torchao}[package](saved_by(package, name))


def of_sgd(**changes):
    """Return what bitsandbytes' SGD saved of one parameter, with changes to its state."""
    entry = {"step": 7, "state1": torch.tensor([0.5, -2.0]), **changes}
    group = {"lr": 0.1, "betas": (0.9, 0), "eps": 0.0, "weight_decay": 0, "params": [0]}
    return {"state": {0: entry}, "param_groups": [group]}


@pytest.mark.parametrize("name", SAME_RULE["bitsandbytes"] | {"Lion8bit": []})
def test_bitsandbytes_is_decoded_as_it_decodes_itself(name):
    rule = re.sub(r"W?\d+bit", "", name)
    state = converted("bitsandbytes", name)["state"]
    floats = RECORDED["bitsandbytes"][name]["floats"]
    for key, entry in saved_by("bitsandbytes", name)["state"].items():
        held = entry["__bnb_optimizer_quant_state__"]
        for i, slot in enumerate(SLOTS[rule], 1):
            assert torch.equal(state[key][slot], floats.get(f"{key} {i}", held[f"state{i}"]))
            assert state[key][slot].dtype == torch.float32
    assert bool(floats) == name.endswith("8bit")


@pytest.mark.parametrize("name", SAME_RULE["torchao"])
def test_torchao_is_decoded_as_it_decodes_itself(name):
    state = converted("torchao", name)["state"]
    for place, values in RECORDED["torchao"][name]["floats"].items():
        key, slot = place.split()
        assert torch.equal(state[int(key)][slot].flatten()[::7], values)
    assert len(RECORDED["torchao"][name]["floats"]) == 2
    assert torch.equal(state[1]["exp_avg"], saved_by("torchao", name)["state"][1]["exp_avg"])


def next_step(optimizer, params, recorded):
    for p, grad in zip(params, recorded["grads"], strict=True):
        p.grad = grad.clone()
    optimizer.step()


#: How far apart two right steps may be: 8 roundings at the parameter's size, and 8 of the update's own.
#: torchao takes 1 - beta2**step, here 0.004, in float32: half of its relative error is that of the root.
EPS = torch.finfo(torch.float32).eps
UPDATE_ERROR = {"bitsandbytes": 8 * EPS, "torchao": 8 * EPS + 0.5 * EPS / (1 - 0.999 ** (STEPS + 1))}


def assert_as_recorded(params, package, name):
    recorded = RECORDED[package][name]
    for before, p, wanted in zip(recorded["params"], params, recorded["next"], strict=True):
        update = (wanted - before).abs()
        bound = 8 * EPS * wanted.abs().maximum(before.abs()) + UPDATE_ERROR[package] * update
        assert ((p.detach() - wanted).abs() <= bound).all()


@pytest.mark.parametrize(("package", "name", "cls", "home"), NEXT_STEPS)
def test_the_next_step_is_the_one_the_package_made(package, name, cls, home):
    recorded = RECORDED[package][name]
    params = [torch.nn.Parameter(p.clone()) for p in recorded["params"]]
    optimizer = getattr(home, cls)(params, lr=123.0)
    optimizer.load_state_dict(converted(package, name))
    assert {type(group["lr"]) for group in optimizer.param_groups} == {float}
    next_step(optimizer, params, recorded)
    assert_as_recorded(params, package, name)
    counters = {float(entry["step"]) for entry in optimizer.state.values() if "step" in entry}
    assert counters <= {STEPS + 1}


def test_lion_goes_on_by_its_formula():
    """There is no Lion here yet; its state and settings are those of the paper's formula."""
    recorded, found = RECORDED["bitsandbytes"]["Lion8bit"], converted("bitsandbytes", "Lion8bit")
    group = found["param_groups"][0]
    lr, (beta1, _), decay = group["lr"], group["betas"], group["weight_decay"]
    params = []
    for i, (p, g) in enumerate(zip(recorded["params"], recorded["grads"], strict=True)):
        direction = (beta1 * found["state"][i]["exp_avg"] + (1 - beta1) * g).sign()
        params.append(p * (1 - lr * decay) - lr * direction)
    assert_as_recorded(params, "bitsandbytes", "Lion8bit")


@pytest.mark.parametrize("size", [256, 2048])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 2049, 5000])
def test_each_block_has_its_scale(count, size):
    """Blocks of 256 elements, and of 2048 as before version 0.44, by the definition, element by element."""
    generator = torch.Generator().manual_seed(count)
    codes = torch.randint(256, (count,), generator=generator, dtype=torch.uint8)
    levels = torch.linspace(-1, 1, 256)
    scales = torch.rand(-(-count // size), generator=generator)
    saved = of_sgd(state1=codes, qmap1=levels, absmax1=scales)
    wanted = [float(levels[int(code)] * scales[i // size]) for i, code in enumerate(codes)]
    assert from_bitsandbytes(saved)["state"][0]["momentum_buffer"].tolist() == wanted


@pytest.mark.parametrize("name", ["AdamW8bit", "SGD8bit"])
def test_state_that_is_not_wrapped_as_in_earlier_versions(name):
    saved = saved_by("bitsandbytes", name)
    for entry in saved["state"].values():
        entry.update(entry.pop("__bnb_optimizer_quant_state__"))
    for key, entry in from_bitsandbytes(saved)["state"].items():
        for slot, value in entry.items():
            assert torch.equal(value, converted("bitsandbytes", name)["state"][key][slot])


def test_settings_of_schedulers_and_names_are_kept():
    saved = of_sgd()
    saved["param_groups"][0].update(initial_lr=0.5, param_names=["w"])
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = fallline.SGD([("w", p)], lr=1.0)
    optimizer.load_state_dict(from_bitsandbytes(saved))
    assert optimizer.param_groups[0]["initial_lr"] == 0.5
    assert optimizer.state[p]["momentum_buffer"].tolist() == [0.5, -2.0]


def assert_untouched(convert, saved):
    tensors = {}
    before = packed(saved, tensors)
    convert(saved)
    assert packed(saved, dict(tensors)) == before, "a tensor that is not among the former ones has a new name"


def test_what_is_given_stays_as_it_was():
    assert_untouched(from_bitsandbytes, saved_by("bitsandbytes", "AdamW8bit"))
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = torch.optim.AdamW([p], lr=torch.tensor(0.5))
    optimizer.step()
    assert_untouched(from_torchao, optimizer.state_dict())


def test_an_unconverted_state_dict_is_refused_with_the_remedy():
    for package, name in [("bitsandbytes", "AdamW8bit"), ("torchao", "AdamW8bit")]:
        params = [torch.nn.Parameter(p.clone()) for p in RECORDED[package][name]["params"]]
        with pytest.raises(CheckpointMismatch, match=f"convert .* with fallline.checkpoints.from_{package}"):
            fallline.AdamW(params).load_state_dict(saved_by(package, name))


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (RECORDED["bitsandbytes"]["LAMB"]["saved"], "LAMB or LARS.*delete its 'unorm_vec'"),
        (RECORDED["bitsandbytes"]["LARS"]["saved"], "LAMB or LARS.*delete its 'unorm_vec'"),
        (RECORDED["bitsandbytes"]["AdEMAMix"]["saved"], "AdEMAMix, which has no counterpart"),
        ({"state": {}, "param_groups": [{"params": [0]}]}, "has no state.*start anew"),
        ({"weight": torch.ones(2)}, "no state dict of one optimizer: it has 'weight'"),
        (of_sgd(state1=torch.ones(3, 2).T), "not contiguous.*in the order of memory if a GPU wrote it"),
        (of_sgd(state1=torch.zeros(9, dtype=torch.uint8)), "0 scales for 9 elements.*block_wise=True"),
        ({**of_sgd(), "param_groups": [{**of_sgd()["param_groups"][0], "params": [1]}]}, r"\['0'\].*delete"),
        ({**of_sgd(), "param_groups": [{"params": [0], "lr": 1.0}]}, "no 'betas' or 'eps'.*load it as it is"),
        ({**of_sgd(), "state": {0: {"exp_avg": torch.ones(2)}}}, "no 'state1'.*load it as it is"),
    ],
)
def test_what_bitsandbytes_saved_but_cannot_be_carried_over(saved, words):
    with pytest.raises(CheckpointMismatch, match=words):
        from_bitsandbytes(saved)


def test_lamb_without_its_norm_is_adam():
    saved = copy.deepcopy(RECORDED["bitsandbytes"]["LAMB"]["saved"])
    for entry in saved["state"].values():
        del entry["__bnb_optimizer_quant_state__"]["unorm_vec"]
    assert set(from_bitsandbytes(saved)["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("convert", [from_bitsandbytes, from_torchao])
def test_what_is_no_state_dict_of_one_optimizer(convert):
    with pytest.raises(TypeError, match="a list is no state dict; give what state_dict"):
        convert([])
    with pytest.raises(CheckpointMismatch, match=r"it has 'offloaded'.*give what"):
        convert({"offloaded": []})  # by torchao's CPUOffloadOptimizer
