"""Lines of generated GPU code that load and store the values of a pass, by how each is stored."""

import torch

from fallline.backends.operands import Operand
from fallline.core.formats import Codes, Kahan, Split

#: Triton's name of each type that numbers, and parts of them, are stored in.
TYPES = {
    torch.float64: "_tl.float64", torch.float32: "_tl.float32", torch.bfloat16: "_tl.bfloat16",
    torch.float16: "_tl.float16", torch.uint8: "_tl.uint8", torch.int16: "_tl.int16",
}  # fmt: skip


def addresses(o: Operand) -> list[str]:
    """Return the lines that find its parts of the tensor ``_t``."""
    lines = []
    for row, at, dtype in zip(o.rows, o.pointers, o.kept_as.dtypes, strict=True):
        pointer = f"_tl.pointer_type({TYPES[dtype]})"
        lines.append(f"{at} = _tl.load(_addresses + {row} * _tensors + _t).to({pointer})")
        lines.append(f"if _ALIGNED:\n    {at} = _tl.multiple_of({at}, 16)")
    return lines


def key(o: Operand) -> str:
    """Return the line that makes the key of its random bits."""
    return f"{o.key} = _narrow.key(_tl.load(_keys + _t), {o.stream})"


def load(o: Operand, compute: torch.dtype, mask: str, base: str = "") -> str:
    """Return the line that loads it for the elements ``_k`` of which those of ``mask`` exist.

    With a ``base``, a scalar, they are those at ``_offset`` from it: that takes fewer registers.
    """
    (at, k), kept_as = _places(o, base), o.kept_as
    if isinstance(kept_as, Codes):
        kind = f"{kept_as.bits}, {kept_as.signed}"
        return f"{o.name} = _narrow.load_codes({at}, _first, _end, {mask}, _BLOCK, {kind})"
    if isinstance(kept_as, (Kahan, Split)):
        kind = type(kept_as).__name__.lower()
        return f"{o.name} = _narrow.load_{kind}({at}, {k}, {mask})"
    return f"{o.name} = _narrow.load({at}, {k}, {mask}).to({TYPES[compute]})"


def store(o: Operand, mask: str, base: str = "") -> str:
    """Return the line that stores it; random bits follow from ``_k`` itself."""
    (at, k), kept_as = _places(o, "" if o.access.random else base), o.kept_as
    if isinstance(kept_as, Codes):
        kind = f"{kept_as.bits}, {kept_as.signed}"
        return f"_narrow.store_codes({at}, _first, _end, _k, {o.name}, {mask}, {o.key}, {kind})"
    if isinstance(kept_as, (Kahan, Split)):
        return f"_narrow.store_{type(kept_as).__name__.lower()}({at}, {k}, {o.name}, {mask})"
    if o.access.random:
        return f"_narrow.store_random({at}, {k}, {o.name}, {mask}, {o.key})"
    return f"_narrow.store({at}, {k}, {o.name}, {mask})"


def _places(o: Operand, base: str) -> tuple[str, str]:
    """Return the addresses of its parts, and the elements to be counted from there."""
    moved = [f"{at} + {base}" for at in o.pointers] if base else o.pointers
    return ", ".join(moved), "_offset" if base else "_k"
