"""The CPU backend: one vectorised, multi-threaded pass over all parameters of a batch, through LLVM."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fallline.backends import kernel_cache, whole
from fallline.backends.cpu_kernel import generate, generate_for_lines
from fallline.backends.cpu_launch import Launch
from fallline.backends.cpu_line_launch import CpuLineSums, LineLaunch
from fallline.backends.cpu_table import Table, Watch
from fallline.backends.line_grids import ways
from fallline.backends.line_sums import LineSums
from fallline.backends.operands import ELEMENT, Signature, stream, traffic, writes
from fallline.core import rounding, source
from fallline.core.backend import AtOnce, Batch, Prepared, Sums
from fallline.core.formats import Format, Plain
from fallline.core.parts import FRESH, PLACE, ROUNDING, STEP, G, P
from fallline.core.plan import ElementPass, Pass, WholePass
from fallline.core.rounding import Noise

_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


class Cpu:
    """Executes plans by generated kernels."""

    name, fuses = "cpu", True
    layout = torch.strided
    generate, generate_for_lines = staticmethod(generate), staticmethod(generate_for_lines)

    def refuses(self, group: Mapping[str, Any], param: Tensor) -> str | None:
        """Refuse what must stay visible to autograd, other devices, and tensors that are not plain memory."""
        if param.device.type != "cpu":
            return f"the parameter is on {param.device}"
        reason = self.refuses_tensor(group, param)
        return reason or (None if _real_dtype(param) in ELEMENT else f"{param.dtype} has no format")

    def refuses_tensor(self, group: Mapping[str, Any], param: Tensor) -> str | None:
        """Return why no kernel that works on addresses can step ``param``, or None if one can."""
        if group.get("differentiable"):
            return "differentiable=True"
        if group.get("foreach") is False and group.get("fused") is False:
            return "foreach=False and fused=False"
        if type(param) not in (Tensor, torch.nn.Parameter):
            return f"{type(param).__name__} is not a plain tensor"
        if param.is_conj() or param.is_neg():
            return "the parameter is conjugated or negated lazily"
        if param.grad is not None and param.grad.layout != self.layout:
            return f"the gradient is {param.grad.layout}"
        return None

    def refuses_lines(self, divided: bool) -> str | None:
        """Refuse lines of which other processes hold the rest."""
        return "rows, columns and channels are divided among processes" if divided else None

    def prepare(self, batch: Batch) -> Prepared:
        """Compile the batch's kernels, or take them from the cache, and lay out its job."""
        return Job(batch)

    def source(self, batch: Batch) -> str:
        """Return the generated modules, and the source of rules on whole tensors and functions of lines."""
        return "\n\n".join(text for one in batch.plan.passes for text in self._sources(batch, one))

    def _sources(self, batch: Batch, one: Pass) -> list[str]:
        if isinstance(one, WholePass):
            return [source.text(one.transform.rule)]
        dtypes = signature(batch)
        if not one.lines:
            return [self.generate(batch.plan, one, dtypes)]
        kernels = [self.generate_for_lines(batch.plan, one, dtypes, way) for way in ways(one, batch.params)]
        return [*kernels, source.text(one.then.function)] if one.then else kernels

    def traffic(self, batch: Batch, one: Pass) -> tuple[float, float] | None:
        """Return the bytes read and written per element."""
        return traffic(batch.plan, one, signature(batch)) if isinstance(one, ElementPass) else None


def signature(batch: Batch) -> Signature:
    """Return how a batch's operands are stored."""
    state = batch.states[0]
    return Signature(
        tuple((name, _real(kept_as)) for name, kept_as in batch.formats.items()),
        _REAL.get(batch.grad_dtype, batch.grad_dtype),
        tuple(state[slot.name].dtype for slot in batch.plan.scalar_slots),
    )


class Job(AtOnce):
    """A batch laid out for its kernels, and how far the present step has got in its passes."""

    def __init__(self, batch: Batch):
        self._dtypes = dtypes = signature(batch)
        self._batch, self._watch, self._table = batch, Watch(batch), Table(batch, dtypes)
        self._bases = np.array([rounding.base(batch.precision.seed, i) for i in batch.indices], np.int64)
        self._used_rows = sorted(set(batch.rows))
        self._settings = np.zeros((len(self._used_rows), len(batch.plan.settings)))
        self._sums = np.zeros((len(batch.params), len(batch.plan.sums)))
        self._fresh = np.array(batch.fresh, np.float64)
        self._values: list[float] = []
        self._in_order = False
        self._next = self._taken = 0
        self._stages = [self._stage(one, dtypes) for one in batch.plan.passes]
        self._line_sums = {
            one: self._sums_over_lines(one)
            for one in batch.plan.passes
            if isinstance(one, ElementPass) and one.then
        }
        self._writes = any(writes(one, P) for one in batch.plan.passes)

    def _stage(self, one: Pass, dtypes: Signature) -> Any:
        if isinstance(one, WholePass):
            return one
        arrays = {
            "offsets": self._table.offsets,
            "sizes": self._table.sizes,
            "bases": self._bases,
            "addresses": self._table.addresses,
            "rows": np.array([self._used_rows.index(r) for r in self._batch.rows], np.int64),
            "settings": self._settings,
            "sums": self._sums,
            "fresh": self._fresh,
        }
        if one.lines:
            return LineLaunch(one, self._batch, dtypes, arrays)
        return Launch(one, kernel_cache.load(generate(self._batch.plan, one, dtypes)), arrays)

    def _sums_over_lines(self, one: ElementPass) -> LineSums:
        return CpuLineSums(one, self._batch, self._dtypes)

    def ready(self, grads: Sequence[Tensor], settings: Mapping[int, Sequence[Any]]) -> bool:
        """Take the settings, and tell whether the table is right for the tensors as they are now."""
        self._set_settings(settings)
        self._next = self._taken = 0
        try:
            self._in_order = self._table.in_order(grads)
        except RuntimeError:  # sparse gradients have no order
            return False
        return self._watch.unchanged(grads, self._in_order)

    def advance(self, grads: Sequence[Tensor]) -> Sums | None:
        """Run the passes up to the next reduction and return its sums by tensor, or None at the end."""
        if self._next == 0:
            self._table.set_grads(grads, self._in_order)
            self._table.stage()
        while self._next < len(self._stages):
            stage = self._stages[self._next]
            self._next += 1
            if not isinstance(stage, Launch):
                self._run_whole(stage)
                continue
            if stage.each.then:
                self._run_lines(stage)
                continue
            self._run_kernel(stage)
            if stage.each.sums:
                return stage.totals()
        self._finish()
        return None

    def take(self, totals: Any) -> None:
        """Take the totals, by tensor, of the sums that `advance` returned last."""
        width = totals.shape[1]
        self._sums[:, self._taken : self._taken + width] = totals
        self._taken += width

    def release(self) -> None:
        """Let go of the gradients, and of what was made per line."""
        self._table.release()
        for sums in self._line_sums.values():
            sums.release()

    def _run_kernel(self, stage: Any) -> None:
        stage.run()

    def _run_lines(self, stage: Any) -> None:
        """Take sums over lines, and evaluate the function of lines that reads them."""
        sums = self._line_sums[stage.each]
        sums.begin(lambda shape, dtype: torch.empty(shape, dtype=dtype))
        sums.enter(self._table.addresses, Tensor.data_ptr)
        self._run_kernel(stage)
        with torch.no_grad():
            sums.evaluate(self._by_row(), self._step_of)

    def _finish(self) -> None:
        self._table.unstage()
        self.release()
        if self._writes:
            increment_version(self._batch.params)
        if any(self._batch.fresh):
            self._batch.fresh = [False] * len(self._batch.fresh)
            self._fresh[:] = 0.0

    def _set_settings(self, settings: Mapping[int, Sequence[Any]]) -> None:
        values = [float(value) for row in self._used_rows for value in settings[row]]
        if values != self._values:
            self._settings.ravel()[:] = values
            self._values = values

    def _by_row(self) -> dict[int, dict[str, Any]]:
        """Return the settings of each group by name."""
        rows = zip(self._used_rows, self._settings.tolist(), strict=True)
        return {row: dict(zip(self._batch.plan.settings, values, strict=True)) for row, values in rows}

    def _run_whole(self, one: WholePass) -> None:
        """Apply a rule on whole tensors to the operands as they lie in the table."""
        t, by_row = one.transform, self._by_row()
        rounding, reads, outputs = torch.finfo(self._batch.params[0].dtype).eps, t.reads, t.outputs
        columns = self._table.columns(one.takes)
        seen = [(name, columns[name]) for name in {*t.inputs, *outputs}]
        rooms = {*outputs} if G in one.takes and not self._batch.plan.handed_over else {*outputs} - {G}
        members = []
        for i, (row, place) in enumerate(zip(self._batch.rows, self._batch.indices, strict=True)):
            known = {FRESH: float(self._batch.fresh[i]), PLACE: place, ROUNDING: rounding}
            step = {STEP: self._step_of(i)} if STEP in reads else {}
            operands = {name: column[i] for name, column in seen}
            settings = {**by_row[row], **known, **step}
            members.append(whole.Member(operands, settings, self._batch.spreads[i]))
        streams = [self._stream(one, name) for name in outputs]
        with torch.no_grad():
            for i, results in whole.apply(t, members):
                noise = self._noise(i)
                results = whole.apart(outputs, results, {n: members[i].operands[n] for n in rooms})
                for name, value, number in zip(outputs, results, streams, strict=True):
                    self._table.put(name, i, value, noise, number)

    def _noise(self, i: int) -> Noise | None:
        """Return the random bits of this step for tensor ``i``."""
        random = self._batch.precision.is_random
        return Noise(int(self._bases[i]), int(self._step_of(i))) if random else None

    def _stream(self, one: WholePass, name: str) -> int:
        return stream(self._batch.plan, one, self._dtypes, name) if name in self._batch.formats else 0

    def _step_of(self, i: int) -> float:
        """Return the number of this step for tensor ``i``: its counter, one more until that was advanced."""
        done = self._stages[: self._next]
        counted = any(stage.each.last for stage in done if not isinstance(stage, WholePass))
        counter = self._batch.states[i].get(STEP)
        return 0.0 if counter is None else float(counter) + (not counted)


def _real_dtype(x: Tensor) -> torch.dtype:
    return _REAL.get(x.dtype, x.dtype)


def _real(kept_as: Format) -> Format:
    return Plain(_REAL[kept_as.dtype]) if isinstance(kept_as, Plain) and kept_as.dtype in _REAL else kept_as
