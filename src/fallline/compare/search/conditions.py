"""Conditions between searched settings: which hold already, which never can, and what must be known first."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fallline.compare.errors import ComparisonError
from fallline.core.errors import suggestion
from fallline.core.space import Choice, Dimension, Space, holds


def settled(space: Space, standing: Mapping[str, Any], where: str) -> dict[str, Dimension]:
    """Return what of ``space`` can come up, each after those that its condition asks about.

    A condition on a setting that is not searched holds or not for good: it is dropped, or its dimension is.

    Args:
        space: what is searched, the learning rate first.
        standing: the values of all settings that are not searched.
        where: how an error starts.

    Raises:
        ComparisonError: a condition on an unknown setting, on a value that never comes up, on a number from a
            continuous range, of the learning rate, or two conditions that wait for each other.

    Example:
        >>> space = {"kernel": Choice((3, 5), when={"kind": "conv"}), "width": Choice((8, 16))}
        >>> list(settled(space, {"kind": "conv"}, "space")), list(settled(space, {"kind": "dense"}, "space"))
        (['kernel', 'width'], ['width'])
    """
    kept: dict[str, Dimension] = {}
    for name, each in _ordered(space, where).items():
        searched = {other: value for other, value in each.when.items() if other in space}
        fixed = {other: value for other, value in each.when.items() if other not in space}
        for other, value in each.when.items():
            _check(f"{where}: the condition of {name}", other, value, space, standing)
        if holds(fixed, standing) and searched.keys() <= kept.keys():
            kept[name] = replace(each, when=searched)
    return kept


def _ordered(space: Space, where: str) -> dict[str, Dimension]:
    """Return the space in its order, but for settings that must wait for one that comes later."""
    if "lr" in space and space["lr"].when:
        raise ComparisonError(
            f"{where}: lr has a condition; every training needs a learning rate, so drop it"
        )
    waiting, ordered = dict(space), {}
    while waiting:
        ready = next((name for name, each in waiting.items() if not each.when.keys() & waiting.keys()), None)
        if ready is None:
            raise ComparisonError(
                f"{where}: conditions that wait for each other: {', '.join(waiting)}; drop one"
            )
        ordered[ready] = waiting.pop(ready)
    return ordered


def _check(where: str, other: str, value: Any, space: Space, standing: Mapping[str, Any]) -> None:
    searched = space.get(other)
    if searched is None:
        if other not in standing:
            raise ComparisonError(
                f"{where} asks for an unknown {other!r}{suggestion(other, [*space, *standing])}"
            )
    elif not isinstance(searched, Choice):
        raise ComparisonError(f"{where} asks for one number of the range of {other}; make {other} a list")
    elif value not in searched.options:
        hint = suggestion(str(value), map(str, searched.options))
        raise ComparisonError(f"{where} asks for {other} = {value!r}, which is not searched{hint}")
