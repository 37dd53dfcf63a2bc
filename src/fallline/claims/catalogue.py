"""The claims that come with fallline, read from ``claims.toml``."""

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from fallline.claims.claim import Claim, ClaimError, Contrast, Origin
from fallline.core.errors import UnknownNameError, suggestion


@cache
def built_in() -> tuple[Claim, ...]:
    """Return all claims, in the order of the report.

    Example:
        >>> built_in()[0].statement
        'Adam converges faster than SGD.'
    """
    text = files("fallline.claims").joinpath("claims.toml").read_text(encoding="utf-8")
    claims = tuple(map(_claim, tomllib.loads(text)["claim"]))
    names = [claim.name for claim in claims]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ClaimError(f"two claims are named {twice!r}; give each a name of its own")
    return claims


def named(names: Iterable[str]) -> tuple[Claim, ...]:
    """Return the claims of these names, in the order of the report; all if there are none.

    Raises:
        UnknownNameError: there is no such claim; the nearest name is suggested.
    """
    wanted, known = set(names), [claim.name for claim in built_in()]
    for name in wanted.difference(known):
        raise UnknownNameError(f"unknown claim {name!r}{suggestion(name, known)} (--list shows all)")
    return tuple(claim for claim in built_in() if claim.name in wanted or not wanted)


def _claim(table: Mapping[str, Any]) -> Claim:
    contrasts = tuple(Contrast(**contrast) for contrast in table["contrasts"])
    origin = Origin(**table.get("origin", {}))
    return Claim(table["name"], table["statement"], contrasts, origin, table.get("note", ""))
