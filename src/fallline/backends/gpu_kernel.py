"""Code generation for GPUs: a Triton module for one element pass, one launch for all tensors of a batch."""

from fallline.backends.formula import program
from fallline.backends.gpu_access import TYPES
from fallline.backends.gpu_elements import Elements, block, triton_line
from fallline.backends.gpu_lines import LineElements
from fallline.backends.operands import Signature, rows
from fallline.core.parts import FRESH, ROUNDING, STEP
from fallline.core.plan import ElementPass, Plan

#: Elements that one program of a kernel works on, in blocks of so many at once.
CHUNK, BLOCK = 8192, 1024
#: Registers of a thread at most, so that 16 warps stay on a multiprocessor.
REGISTERS = 128
#: Tensors that one program of the per-tensor kernel works on.
TENSORS = 128

_MODULE = '''\
"""{title}

Written by fallline from the rule. Names with an underscore are the generator's, all others the rule's.
"""

import triton
import triton.language as _tl
from triton.language import constexpr

from fallline.backends import gpu_narrow as _narrow, gpu_primitives as _math
from fallline.backends.gpu_primitives import exp, log, maximum, minimum, sign, single, sqrt, where


@triton.jit
def once(
    _addresses, _rows, _settings, _fresh, _sums, _bases, _withheld, _numbers, _keys, _tensors,
    _BLOCK: constexpr,
):
    """Per tensor: advance the state kept per tensor, and compute the numbers the elements read."""
    _t = _tl.program_id(0).to(_tl.int64) * _BLOCK + _tl.arange(0, _BLOCK)
    _here = _t < _tensors
    _row = _tl.load(_rows + _t, mask=_here, other=0)
    if _tl.load(_withheld) != 0:
        return
{inputs}
{lines}
{outputs}
'''


def generate(plan: Plan, each: ElementPass, dtypes: Signature) -> str:
    """Return the source of the kernel module of one element pass of ``plan``."""
    return _module(plan, each, dtypes) + Elements(plan, each, dtypes).function()


def generate_for_lines(plan: Plan, each: ElementPass, dtypes: Signature, way: str) -> str:
    """Return the module of a pass that works on lines, which meet elements in one of the `MEETINGS`."""
    return _module(plan, each, dtypes) + LineElements(plan, each, dtypes, way).function()


def _module(plan: Plan, each: ElementPass, dtypes: Signature) -> str:
    title = " -> ".join(t.name for t in each.transforms) or "sums alone"
    return _MODULE.format(title=title, **_once(plan, each, dtypes))


def _once(plan: Plan, each: ElementPass, dtypes: Signature) -> dict[str, str]:
    code, place = program(each), rows(plan, dtypes.beside)
    settings = [(i, n) for i, n in enumerate(plan.settings) if n in code.needs]
    sums = [(i, one.name) for i, one in enumerate(plan.sums) if one.name in code.needs]
    scalars = [s.name for s in plan.scalar_slots]
    types = dict(zip(scalars, map(TYPES.__getitem__, dtypes.scalars), strict=True))
    inputs = [_load(n, f"_settings + _row * {len(plan.settings)} + {i}", "_here") for i, n in settings]
    inputs += [_load(n, f"_sums + _t * {len(plan.sums)} + {i}", "_here") for i, n in sums]
    inputs.append(_load(FRESH, "_fresh + _t", "_here"))
    inputs += (
        [f"{ROUNDING} = _tl.full([1], {dtypes.rounding!r}, _tl.float64)"] if ROUNDING in code.needs else []
    )
    for n in scalars:
        at = f"_tl.load(_addresses + {place[n]} * _tensors + _t, mask=_here, other=0)"
        inputs.append(f"_at_{n} = {at}.to(_tl.pointer_type({types[n]}))")
        inputs.append(_load(n, f"_at_{n}", "_here") + (" + 1.0" if n == STEP else ""))
    outputs = [f"_tl.store(_at_{n}, {n}, mask=_here)" for n in scalars if each.last]
    width = len(code.numbers)
    outputs += [
        f"_tl.store(_numbers + _t * {width} + {i}, {n}, mask=_here)" for i, n in enumerate(code.numbers)
    ]
    if dtypes.is_random:
        base = "_tl.load(_bases + _t, mask=_here, other=0)"
        outputs.append(f"_tl.store(_keys + _t, _narrow.at_step({base}, {STEP}), mask=_here)")
    lines = [triton_line(line, double=True) for line in code.once]
    return {"inputs": block(inputs, 1), "lines": block(lines, 1), "outputs": block(outputs, 1)}


def _load(name: str, at: str, mask: str) -> str:
    return f"{name} = _tl.load({at}, mask={mask}, other=1.0).to(_tl.float64)"
