"""What torch refuses is refused with the same type and first words; nonsense that it lets pass, too."""

import inspect

import pytest
import torch

from drop_in.pairs import PAIRS, each_pair, having, make_params, outcome, set_grads

#: Values for any optimizer that has the option; torch itself says which it refuses.
CANDIDATES = [
    ("lr", -1.0),
    ("lr", 0.0),
    ("lr", torch.tensor([0.1, 0.2])),
    ("lr", torch.tensor(-0.1)),
    ("lr", "0.1"),
    ("lr", None),
    ("weight_decay", -0.1),
    ("eps", -1e-8),
    ("eps", 0.0),
    ("betas", (1.0, 0.999)),
    ("betas", (0.9, 1.0)),
    ("betas", (-0.1, 0.999)),
    ("betas", (0.9, -0.1)),
    ("betas", (0.9,)),
    ("betas", (0, 0.999)),
    ("betas", (0.9, torch.tensor(0.999))),
    ("betas", 0.9),
    ("momentum", -0.5),
    ("rho", 1.5),
    ("rho", -0.5),
    ("alpha", -0.5),
    ("lr_decay", -0.1),
    ("initial_accumulator_value", -0.1),
    ("momentum_decay", -0.1),
    ("nesterov", True),
]

#: Options with candidates that torch does not check and ours refuses.
UNCHECKED = {("ASGD", "alpha")}


def cases(candidates):
    return pytest.mark.parametrize(
        ("pair", "option", "value"),
        [(pair, *candidate) for pair in PAIRS for candidate in candidates if candidate[0] in pair.options],
        ids=str,
    )


def first_words(text: str) -> str:
    return text.split(";")[0]


@cases(CANDIDATES)
def test_the_constructor_refuses_what_torchs_refuses(pair, option, value):
    theirs = outcome(lambda: pair.theirs(make_params(), **{option: value}))
    ours = outcome(lambda: pair.ours(make_params(), **{option: value}))
    if theirs is None:
        assert ours is None or (str(pair), option) in UNCHECKED
    else:
        assert ours is not None, f"accepted; torch raises {theirs}"
        assert issubclass(ours[0], theirs[0]), (ours, theirs)
        if theirs[0] is ValueError:  # other types come from Python's own operations, in Python's own words
            assert ours[1].startswith(first_words(theirs[1])), (ours, theirs)


FLAGS = [
    {"fused": True, "foreach": True},
    {"fused": True, "differentiable": True},
    {"foreach": True, "lr": torch.tensor(0.1)},
    {"capturable": True},
]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@each_pair
def test_flags_together(pair, flags):
    """Construction and the first step raise what torch raises, in words that start the same."""
    if not flags.keys() <= pair.options:
        assert flags.keys() - set(inspect.signature(pair.ours).parameters)
        return

    def use(cls):
        params = [tensor.detach() for tensor in make_params()]
        optimizer = cls(params, **flags)
        set_grads(params, 0)
        optimizer.step()

    theirs, ours = outcome(lambda: use(pair.theirs)), outcome(lambda: use(pair.ours))
    assert (ours is None) == (theirs is None), (ours, theirs)
    if theirs is not None:
        assert issubclass(ours[0], theirs[0]), (ours, theirs)
        assert ours[1][:26] == theirs[1][:26], (ours, theirs)  # NAdam's text goes on in its own way


@having("capturable")
def test_capturable_on_the_cpu_raises_at_the_first_step_only(pair):
    optimizer = pair.ours(make_params(), capturable=True)
    assert optimizer.param_groups[0]["capturable"] is True


@pytest.mark.parametrize("flag", ["maximize", "foreach", "differentiable", "capturable", "fused", "nesterov"])
@each_pair
def test_flags_are_kept_as_given(pair, flag):
    if flag not in pair.options:
        assert flag not in pair.ours(make_params()).defaults
        return
    settings = {flag: True, **({"momentum": 0.9} if flag == "nesterov" else {})}
    ours, theirs = (cls(make_params(), **settings).defaults for cls in (pair.ours, pair.theirs))
    assert ours == theirs


@each_pair
def test_an_error_in_the_constructor_leaves_the_parameters_alone(pair):
    params = make_params()
    with pytest.raises(ValueError, match="Invalid learning rate"):
        pair.ours(params, lr=-1.0)
    assert all(torch.equal(a, b) for a, b in zip(params, make_params(), strict=True))
