"""Which parameters a selector selects, and what is said when it selects none or too many."""

import pytest
from torch import nn

from fallline import AdamW, Frozen, Route, route
from fallline.core.errors import UnknownNameError
from fallline.routing import RoutingError, depth, named, ndim, rest, shaped, within
from routing.models import make_net


def selected(select):
    """Return the names of what a selector selects in the network."""
    optimizer = route(make_net(), Route(select, AdamW), Frozen(rest))
    return [name for group in optimizer.param_groups for name in group["param_names"]]


@pytest.mark.parametrize(
    ("select", "names"),
    [
        ("embed.*", ["embed.weight"]),
        ("head.weight", ["embed.weight"]),  # shared: known under both names
        (named("*.bias") & ~named("blocks.*"), ["norm.bias", "head.bias"]),
        (named("norm.*") | "head.bias", ["norm.weight", "norm.bias", "head.bias"]),
        ("head.bias" | named("norm.bias"), ["norm.bias", "head.bias"]),
        (nn.Embedding, ["embed.weight"]),
        (within(nn.LayerNorm) & depth(4, 4), ["norm.weight", "norm.bias"]),
        (within(nn.ModuleList) & ndim(2), [f"blocks.{i}.linear.weight" for i in range(3)]),
        (shaped(None, 4) & ~depth(1, 3), ["embed.weight"]),
        (shaped(7), ["head.bias"]),
        (depth(2, 2) & ndim(2), ["blocks.1.linear.weight"]),
        (~(ndim(1) | ndim(2)) | "head.bias", ["head.bias"]),
    ],
    ids=repr,
)
def test_what_is_selected(select, names):
    assert selected(select) == names


def test_rest_is_what_no_firm_rule_takes_whatever_the_order():
    rules = [Route(rest & ndim(1), AdamW), Route("blocks.*", AdamW), Route(rest & ~ndim(1), AdamW)]
    for order in (rules, rules[::-1]):
        optimizer = route(make_net(), *order)
        names = {group["name"]: group["param_names"] for group in optimizer.param_groups}
        assert names["rest & ndim(1)"] == ["norm.weight", "norm.bias", "head.bias"]
        assert names["rest & ~ndim(1)"] == ["embed.weight"]


@pytest.mark.parametrize(
    ("select", "words"),
    [
        ("block.0.*", r"no parameter matches 'block.0.\*'; the nearest name is 'blocks.0"),
        (named("*.bias") & ~named("haed.bias"), "the nearest name is 'head.bias'"),
        (nn.LSTM, "no parameter matches LSTM; the nearest type is"),
        (ndim(3), r"there are \[1, 2\]"),
        (depth(7, 9), "depths go from 0 to 4"),
        (shaped(3, None), r"no parameter matches shaped\(3, None\)"),
    ],
    ids=repr,
)
def test_a_selector_that_selects_nothing_is_refused_with_the_nearest_name(select, words):
    with pytest.raises(UnknownNameError, match=words):
        selected(select)


def test_parameters_taken_by_no_rule_or_by_two_are_listed_with_the_rules():
    with pytest.raises(RoutingError) as error:
        route(make_net(), Route("blocks.*", AdamW), Frozen("blocks.0.norm.*"), Route("norm.*", AdamW))
    message = str(error.value)
    assert "embed.weight = head.weight: no rule" in message
    assert "head.bias: no rule" in message
    assert "blocks.0.norm.bias: Route('blocks.*', AdamW) and Frozen('blocks.0.norm.*')" in message
    assert "blocks.1" not in message
    assert "rules: Route('blocks.*', AdamW), Frozen('blocks.0.norm.*'), Route('norm.*', AdamW)" in message


def test_what_selects_nothing_by_its_kind_is_refused():
    with pytest.raises(TypeError, match="give a name pattern, a module type, or a selector"):
        Route(3, AdamW)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is no rule; give Route"):
        route(make_net(), AdamW)  # type: ignore[arg-type]
    with pytest.raises(RoutingError, match="no parameter is left to optimize"):
        route(make_net(), Frozen("*"))
