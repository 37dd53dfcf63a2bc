"""The optimizer that `route` returns: groups under different rules, one state dict, one step."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fallline.core.errors import CheckpointMismatch, UnknownNameError, suggestion
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Optimizer
from fallline.core.sparsity import Sparse
from fallline.core.transform import Transform

#: The key of a group that names the rule of its parameters.
RULE = "rule"


@dataclass(frozen=True)
class FrozenRow:
    """What the table tells of parameters that the optimizer does not hold."""

    name: str
    tensors: int
    elements: int


class Routed(Optimizer):
    """Parameter groups under different optimizers, as one optimizer; made by `route`.

    Args:
        groups: dicts with ``params``, ``param_names``, ``rule`` and any settings of that rule.
        makers: for each name that ``rule`` may have, an optimizer that gives its rules, records and defaults;
            it holds no parameter of the groups and is never stepped.
        frozen: what else the table is to show.

    State: of each parameter as its own optimizer keeps it.

    Raises:
        UnknownNameError: a group names a rule that is not among ``makers``.
        ValueError, TypeError: a group has settings that its rule does not have or allow.

    Example:
        >>> import torch, fallline
        >>> from fallline.routing import Route, rest, route
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = route(model, Route("bias", fallline.SGD), Route(rest, fallline.AdamW), lr=0.1)
        >>> print(optimizer)
        rule   name    tensors  elements  lr   weight_decay
        SGD    'bias'        1         2  0.1  0
        AdamW  rest          1         6  0.1  0.01

    torch has no such optimizer.
    """

    added_later = {}

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        makers: Mapping[str, Optimizer],
        frozen: Iterable[FrozenRow] = (),
    ):
        self._makers, self._frozen = dict(makers), tuple(frozen)
        super().__init__(groups, {})
        self.defaults = self._common_settings()

    def maker(self, group: Mapping[str, Any]) -> Optimizer:
        """Return the optimizer that gives the rules of ``group``."""
        rule = group[RULE]
        if rule not in self._makers:
            raise UnknownNameError(f"no rule called {rule!r} here{suggestion(str(rule), self._makers)}")
        return self._makers[rule]

    def rules(self, group: Mapping[str, Any]) -> tuple[Transform, ...]:  # type: ignore[override]
        """The rules of the group's optimizer."""
        return self.maker(group).rules(group)

    def transforms(self, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The whole chain of the group's optimizer."""
        return self.maker(group).transforms(group)

    def hyperparameters_of(self, group: Mapping[str, Any]) -> tuple[Hyperparameter, ...]:
        """The records of the group's optimizer."""
        return self.maker(group).hyperparameters_of(group) if RULE in group else ()

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse what the group's optimizer refuses."""
        if RULE in group:
            self.maker(group).check_together(group)

    def takes_sparse(self, group: Mapping[str, Any]) -> Sparse | None:
        """What becomes of sparse gradients in the group's optimizer."""
        return self.maker(group).takes_sparse(group)

    def refuses_dense(self, group: Mapping[str, Any]) -> str | None:
        """What the group's optimizer refuses."""
        return self.maker(group).refuses_dense(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; ``rule`` names its optimizer, and what it does not set is as in that rule's first."""
        if RULE not in param_group:
            raise ValueError(f"the group has no 'rule'; give one of {', '.join(self._makers)}")
        with self._defaults_of(param_group):
            super().add_param_group(param_group)

    def settings_loaded(self, own: Mapping[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
        """Return the saved settings under the group's own rule, which must be of the same class.

        The names of rules depend on the order in which `route` was given them.
        """
        here, there = (str(group.get(RULE, own[RULE])) for group in (own, saved))
        if here.split()[0] != there.split()[0]:
            raise CheckpointMismatch(f"parameters that {here} steps here were saved under {there}")
        return {**saved, RULE: own[RULE]}

    def table(self) -> str:
        """Return the routing as a table within 80 columns: a row for each group and each frozen selector."""
        return "\n".join(_columns([_HEAD, *map(_row, self.param_groups), *map(_frozen_row, self._frozen)]))

    def __repr__(self) -> str:
        return self.table()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_makers": self._makers, "_frozen": self._frozen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for key, value in {**self.maker(group).defaults, **self.maker(group).added_later}.items():
                group.setdefault(key, value)

    @contextmanager
    def _defaults_of(self, group: Mapping[str, Any]) -> Iterator[None]:
        """Let the defaults be those of the group's optimizer while the group is added."""
        before, self.defaults = self.defaults, {**self.maker(group).defaults, RULE: group[RULE]}
        try:
            yield
        finally:
            self.defaults = before

    def _common_settings(self) -> dict[str, Any]:
        """Return the settings that all groups have, as the first has them: torch's schedulers look there."""
        first, *others = self.param_groups
        left_out = {"params", "param_names", "name"}
        return {k: v for k, v in first.items() if k not in left_out and all(k in group for group in others)}


_HEAD = ("rule", "name", "tensors", "elements", "lr", "weight_decay")


def _row(group: Mapping[str, Any]) -> tuple[str, ...]:
    tensors, elements = len(group["params"]), sum(p.numel() for p in group["params"])
    settings = (_shown(group.get("lr")), _shown(group.get("weight_decay")))
    return (group[RULE], group.get("name", ""), str(tensors), f"{elements:,}", *settings)


def _frozen_row(row: FrozenRow) -> tuple[str, ...]:
    return ("frozen", row.name, str(row.tensors), f"{row.elements:,}", "", "")


def _shown(value: Any) -> str:
    return "" if value is None else f"{float(value):.4g}"


def _columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield the rows in columns, numbers of tensors and elements to the right, long names cut short."""
    limits = (12, 0, 8, 14, 10, 12)
    cut = [tuple(map(_cut, row, limits)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    free = 80 - sum(widths) + widths[1] - 2 * (len(widths) - 1)
    widths[1] = min(widths[1], free)
    for row in cut:
        cells = [
            cell.rjust(width) if i in (2, 3) else _cut(cell, width).ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _cut(text: str, width: int) -> str:
    return text if not width or len(text) <= width else text[: width - 1] + "…"
