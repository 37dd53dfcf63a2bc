"""What once led to foreign memory, lost state or half a step, and must not again."""

import linecache
import sys

import pytest
import torch

import fallline
from fallline import chain, transform
from fallline.core import dispatch as dispatch_module
from fallline.core.errors import RuleError
from fallline.core.parts import summed
from fallline.gradients import centralize, clip_by_global_norm, clip_by_quantile
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import l2
from fallline.penalties.prox import L1


def stepped(cls=fallline.Adagrad, shape=(40_000,), **settings):
    p = torch.nn.Parameter(torch.ones(shape))
    optimizer = cls([p], **settings)
    p.grad = torch.ones_like(p)
    optimizer.step()
    return p, optimizer


def test_state_moved_to_shared_memory_is_followed_there():
    p, optimizer = stepped()
    optimizer.share_memory()
    optimizer.step()
    assert optimizer.state[p]["sum"].unique().tolist() == [2.0]


def test_state_that_is_swapped_is_followed():
    p, optimizer = stepped(fallline.SGD, lr=1.0, momentum=0.5)
    optimizer.state[p]["momentum_buffer"] = torch.full_like(p, 4.0)
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].unique().tolist() == [3.0]


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda state: state.update(sum=torch.ones(3)), "shape"),
        (lambda state: state.update(sum=state["sum"].to("meta")), "meta"),
        (lambda state: state.update(sum=state["sum"].int()), "int32"),
        (lambda state: state.update(step=torch.ones(2)), "step has shape"),
    ],
    ids=["shape", "device", "dtype", "step"],
)
def test_state_that_does_not_fit_is_refused_by_name(tamper, message):
    p, optimizer = stepped()
    before = p.detach().clone()
    tamper(optimizer.state[p])
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert torch.equal(p, before)


def test_a_users_own_entries_in_the_state_are_left_alone():
    p, optimizer = stepped()
    optimizer.state[p]["note"] = "mine"
    optimizer.state[p]["nothing"] = None
    optimizer.step()
    assert optimizer.state[p]["note"] == "mine"
    assert optimizer.state[p]["step"].item() == 2


def test_conjugated_parameters_are_stepped_as_their_values():
    value = torch.tensor([1.0 + 2.0j, 3.0 - 1.0j])
    p = torch.nn.Parameter(value.conj())
    p.grad = torch.tensor([1.0 + 1.0j, 1.0j])
    expected = value.conj().clone() - p.grad
    fallline.SGD([p], lr=1.0).step()
    assert torch.equal(p.detach().resolve_conj(), expected.resolve_conj())


def test_a_bad_setting_in_one_group_leaves_all_groups_as_they_were():
    a, b = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = fallline.SGD([{"params": [a]}, {"params": [b], "momentum": 0.9}], lr=0.5)
    for p in (a, b):
        p.grad = torch.ones(3)
    optimizer.param_groups[1]["lr"] = "fast"
    with pytest.raises(ValueError, match="fast"):
        optimizer.step()
    assert a.tolist() == b.tolist() == [1.0] * 3


def test_a_users_hook_after_loading_has_the_last_word():
    p, optimizer = stepped()
    saved = optimizer.state_dict()
    optimizer.register_load_state_dict_post_hook(lambda o: o.state[p]["sum"].fill_(7.0))
    optimizer.load_state_dict(saved)
    assert optimizer.state[p]["sum"].unique().tolist() == [7.0]


def written(source):
    """Return the function that ``source`` defines, as if it stood in a file."""
    scope, name = {}, f"<rule {hash(source)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), scope)
    return scope["rule"]


@pytest.mark.parametrize("name", ["rows", "numbers", "t", "k", "load_f32", "job", "range", "last_step", "c"])
def test_no_name_in_a_rule_meets_one_of_generated_code(name):
    rule = written(f"""def rule(g, slot, *, {name}):
    absolute = {name} * g
    slot = slot + absolute
    return slot, slot
""")
    make = chain(transform(slots=("slot",))(rule)(3.0), scale_by_learning_rate(1.0))
    p = torch.nn.Parameter(torch.zeros(5))
    optimizer = make([p])
    p.grad = torch.ones(5)
    optimizer.step()
    assert p.tolist() == [-3.0] * 5


@pytest.mark.parametrize("value", ["g * 2", "lr * 2 + 0 * c"], ids=["element", "number"])
@pytest.mark.parametrize("name", ["_k", "_t", "_n", "_at_0", "_addresses", "_io", "_", "range", "left_g"])
def test_no_local_name_meets_one_of_generated_code(name, value):
    rule = written(f"def rule(g, *, lr, c=1.0):\n    {name} = {value}\n    return {name} * c + 0 * g\n")
    p = torch.nn.Parameter(torch.zeros(5))
    optimizer = chain(transform()(rule)(lr=1.0))([p])
    p.grad = torch.ones(5)
    optimizer.step()
    assert p.tolist() == [-2.0] * 5


@pytest.mark.parametrize("name", ["left_g", "left_gain"])
def test_state_may_have_the_name_of_what_passes_leave_for_each_other(name):
    rule = written(f"def rule(g, {name}):\n    {name} = {name} + g\n    return {name}, {name}\n")
    make = chain(centralize(), transform(slots=(name,), gain=1.0)(rule), scale_by_learning_rate(1.0), L1(0.5))
    p = torch.nn.Parameter(torch.zeros(5))
    optimizer = make([p])
    for _ in range(2):
        p.grad = torch.ones(5)
        optimizer.step()
    assert p.tolist() == [-2.0] * 5
    assert optimizer.state[p][name].tolist() == [2.0] * 5


def test_a_setting_that_only_a_later_pass_reads_is_not_taken_for_a_number_of_this_one():
    @transform()
    def scale_by_c(g, *, c):
        return g * c

    params = [torch.nn.Parameter(torch.full((2,), 3.0)) for _ in range(2)]
    optimizer = chain(l2(0.1), clip_by_global_norm(1.0), scale_by_c(0.5), scale_by_learning_rate(1.0))(params)
    for p in params:
        p.grad = torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(torch.stack(list(params)), torch.full((2, 2), 3 - 0.5 * 0.5))


def test_a_local_name_does_not_hide_a_sum():
    @summed(over="model")
    def norm(g):
        return g

    @transform()
    def scale_by_local(g, *, lr):
        norm = lr * 100
        return g * norm

    @transform(sums=(norm,))
    def divide_by_sum(g, *, norm):
        return g / norm

    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = chain(scale_by_local(), divide_by_sum(), scale_by_learning_rate(1.0))([p])
    p.grad = torch.ones(4)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((4,), -0.25))


@pytest.mark.parametrize("name", ["_row", "sqrt"])
def test_names_of_generated_code_are_refused(name):
    scope = {}
    exec(f"def rule(g, *, {name}):\n    return g * {name}\n", scope)
    with pytest.raises(RuleError, match="use others"):
        transform()(scope["rule"])


def test_gradients_that_come_and_go_need_no_new_tables(monkeypatch):
    made = []
    monkeypatch.setattr(
        dispatch_module.Dispatch, "__init__", counting(made, dispatch_module.Dispatch.__init__)
    )
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(4)]
    optimizer, reference = fallline.Adam(params), torch.optim.Adam([p.detach().clone() for p in params])
    patterns = [(0, 1, 2, 3), (0, 2), (1, 3)]
    for t in range(12):
        for p, q in zip(params, reference.param_groups[0]["params"], strict=True):
            p.grad = q.grad = None
        for i in patterns[t % 3]:
            params[i].grad = torch.full((3,), 1.0 + t)
            reference.param_groups[0]["params"][i].grad = params[i].grad.clone()
        optimizer.step()
        reference.step()
    for p, q in zip(params, reference.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-6, atol=1e-7)
    assert len(made) == 3


def counting(calls, function):
    def count(self, optimizer):
        calls.append(optimizer)
        function(self, optimizer)

    return count


def test_a_first_step_that_is_skipped_leaves_no_state():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fallline.SGD([p], lr=0.1, momentum=0.9, dampening=0.5, skip_nonfinite=True)
    p.grad = torch.tensor([1.0, float("nan"), 1.0])
    optimizer.step()
    assert not optimizer.state
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(optimizer.state[p]["momentum_buffer"], torch.ones(3))


each_backend = pytest.mark.parametrize(
    "backend", [{}, {"foreach": False, "fused": False}], ids=["cpu", "eager"]
)


@each_backend
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_first_step_that_fails_half_way_leaves_no_state(place, backend):
    failing = [True]

    @transform(whole=True)
    def interrupt(g):
        if failing:
            raise KeyboardInterrupt
        return g

    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fallline.SGD([p], lr=1.0, momentum=0.9, dampening=0.5, **{place: [interrupt]}, **backend)
    p.grad = torch.ones(3)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert not optimizer.state
    failing.clear()
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].tolist() == [1.0] * 3
    assert p.tolist() == [0.0] * 3


@each_backend
def test_a_skipped_first_step_on_state_in_part_from_elsewhere_is_none(backend):
    p = torch.nn.Parameter(torch.ones(3))
    theirs = torch.optim.Adam([p])
    p.grad = torch.ones(3)
    theirs.step()
    ours = fallline.Adam([p], before=[clip_by_quantile(0.5)], skip_nonfinite=True, **backend)
    ours.state[p].update(theirs.state[p])
    p.grad = torch.full((3,), float("inf"))
    ours.step()
    assert "norm_quantile" not in ours.state[p]
    assert ours.state[p]["step"] == 1
    p.grad = torch.ones(3)
    ours.step()
    assert ours.state[p]["step"] == 2
    torch.testing.assert_close(ours.state[p]["norm_quantile"].item(), 3**0.5)


@each_backend
def test_gradients_of_a_skipped_step_are_let_go(backend):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fallline.SGD([p], skip_nonfinite=True, **backend)
    grad = p.grad = torch.full((3,), float("nan"))
    holders = sys.getrefcount(grad)
    optimizer.step()
    assert sys.getrefcount(grad) == holders


def test_a_transform_before_the_rules_cannot_take_away_their_settings():
    @transform(slots=("smooth",))
    def smooth(g, smooth, *, beta1=0.5):
        smooth = beta1 * smooth + (1 - beta1) * g
        return smooth, smooth

    p = torch.nn.Parameter(torch.ones(2))
    optimizer = fallline.Adam([p], betas=(0.8, 0.99), before=[smooth])
    p.grad = torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.full((2,), 0.2 * 0.2))
    with pytest.raises(RuleError, match="has 'beta1' itself"):
        fallline.Adam([p], before=[smooth(0.5)])


@pytest.mark.parametrize("cls", [fallline.SGD, fallline.AdamW])
def test_a_torch_checkpoint_keeps_its_state_where_a_transform_is_added(cls):
    settings = {"lr": 0.1, **({"momentum": 0.9, "dampening": 0.5} if cls is fallline.SGD else {})}
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    theirs = getattr(torch.optim, cls.__name__)([q], **settings)
    for _ in range(3):
        q.grad = torch.ones(3)
        theirs.step()
    ours = cls([p], **settings, after=[fallline.follow_parameters(0.1)])
    with torch.no_grad():
        p.copy_(q)
    with pytest.raises(ValueError, match="state lacks 'average'"):
        ours.load_state_dict(theirs.state_dict())
    with pytest.warns(UserWarning, match="state lacks 'average'"):
        ours.load_state_dict(theirs.state_dict(), strict=False)
    p.grad = q.grad = torch.ones(3)
    ours.step()
    theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=0)
