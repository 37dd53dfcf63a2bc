"""The GPU backend: one launch for all parameters of a batch and each pass, through Triton."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fallline.backends.cpu import Cpu, Job, signature
from fallline.backends.gpu_kernel import generate, generate_for_lines
from fallline.backends.gpu_launch import ChunkLaunch, Launch, load
from fallline.backends.gpu_line_launch import GpuLineSums, LineLaunch, LineMemory
from fallline.backends.gpu_tables import Tables
from fallline.backends.line_sums import LineSums
from fallline.backends.operands import ELEMENT, rows
from fallline.core.backend import Batch, Sums
from fallline.core.parts import STEP
from fallline.core.plan import ElementPass, Pass, WholePass


@cache
def missing() -> str | None:
    """Return why there is no Triton to compile with, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return "the device is not NVIDIA's" if torch.version.hip else None


def interpreted() -> bool:
    """Tell whether Triton interprets kernels, on any device, as its tests do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class Gpu(Cpu):
    """Executes plans by generated Triton kernels."""

    name, fuses = "gpu", True
    generate, generate_for_lines = staticmethod(generate), staticmethod(generate_for_lines)

    def refuses(self, group: Mapping[str, Any], param: Tensor) -> str | None:
        """Refuse what must stay visible to autograd, other devices, and tensors that are not plain memory."""
        if not (param.is_cuda or interpreted()):
            return f"the parameter is on {param.device}"
        if param.is_cuda and not (group.get("fused") or group.get("capturable")):
            return "it has not run on hardware yet, so ask for it: fused=True or capturable=True"
        reason = missing() or self.refuses_tensor(group, param)
        return reason or (None if param.dtype in ELEMENT else f"{param.dtype} has no format")

    def prepare(self, batch: Batch) -> "GpuJob":
        """Generate the batch's kernels, and lay out its job."""
        return GpuJob(batch)


class GpuJob(Job):
    """A batch laid out for its kernels, with its tables on the device."""

    def __init__(self, batch: Batch):
        self._device = batch.params[0].device
        self._done = 0
        self._first_steps: dict[int, tuple[int, float]] = {}
        scalars = {slot.name for slot in batch.plan.scalar_slots}
        places = rows(batch.plan, signature(batch).beside)
        others = {*scalars, *batch.plan.line_numbers, *(each.name for each in batch.plan.line_sums)}
        self._of_elements = [row for name, row in places.items() if name not in others]
        self._counters = [state[STEP] for state in batch.states if STEP in state]
        self._on_device: list[tuple[int, Tensor]] = []
        self._made = self._withheld = torch.zeros((), device=self._device)
        super().__init__(batch)
        self._sums = torch.zeros(self._sums.shape, dtype=torch.float64, device=self._device)
        self._memory = self._line_memory(places)
        self._lay_out()

    def _line_memory(self, places: Mapping[str, int]) -> LineMemory:
        plan = self._batch.plan
        lines = [places[n] for n in (*plan.line_numbers, *(each.name for each in plan.line_sums))]
        found = slice(min(lines, default=0), 1 + max(lines, default=-1))
        return LineMemory(list(self._line_sums.values()), found, len(self._batch.params), self._device)

    def _stage(self, one: Pass, dtypes: Any) -> Any:
        if isinstance(one, WholePass):
            return one
        if one.lines:
            return LineLaunch(one, self._batch, dtypes)
        module = load(generate(self._batch.plan, one, dtypes))
        return ChunkLaunch(one, module, self._table.sizes, self._device, dtypes.compute)

    def _sums_over_lines(self, one: ElementPass) -> LineSums:
        return GpuLineSums(one, self._batch, self._dtypes)

    def _lay_out(self) -> None:
        """Put what kernels read beside each other, to be brought to the device in one piece."""
        groups = np.array([self._used_rows.index(r) for r in self._batch.rows], np.int64)
        arrays = {
            "addresses": self._table.addresses, "settings": self._settings, "fresh": self._fresh,
            "rows": groups, "bases": self._bases,
        }  # fmt: skip
        self._tables = Tables(arrays, self._device, spare=len(self._stages))
        here = self._tables.here
        self._table.addresses, self._settings, self._fresh = (
            here["addresses"],
            here["settings"],
            here["fresh"],
        )
        self._aligned = self._is_aligned()

    def _is_aligned(self) -> bool:
        return not (self._table.addresses[self._of_elements] % 16).any()

    @property
    def defers(self) -> bool:  # type: ignore[override]
        """Whether kernels alone see to it: not where torch operations take part, or the host anyway looks."""
        kernels_alone = all(isinstance(stage, Launch) for stage in self._stages)
        host_looks = any(self._batch.fresh) or any(each.vetoes for each in self._batch.plan.sums)
        return kernels_alone and not host_looks

    def defer(self, withheld: Tensor) -> None:
        """Make the step that is `ready` only if ``withheld`` is zero."""
        self._withheld = withheld.to(self._device, non_blocking=True)

    def ready(self, grads: Sequence[Tensor], settings: Mapping[int, Sequence[Any]]) -> bool:
        """Take the settings, and tell whether the table is right for the tensors as they are now."""
        self._withheld = self._made
        return super().ready(grads, settings)

    def _set_settings(self, settings: Mapping[int, Sequence[Any]]) -> None:
        """Take the settings; those that are tensors on the device stay there, and nothing waits for them."""
        given = [value for row in self._used_rows for value in settings[row]]
        before = {i for i, _ in self._on_device}
        self._on_device = [
            (i, value.detach().reshape(()))
            for i, value in enumerate(given)
            if isinstance(value, Tensor) and value.device == self._device
        ]
        there = {i for i, _ in self._on_device}
        if there != before:
            self._tables.outdate()
        values = [0.0 if i in there else float(value) for i, value in enumerate(given)]
        if values != self._values:
            self._settings.ravel()[:] = values
            self._values = values

    def _by_row(self) -> dict[int, dict[str, Any]]:
        found, names = super()._by_row(), self._batch.plan.settings
        for i, value in self._on_device:
            row, place = divmod(i, len(names))
            found[self._used_rows[row]][names[place]] = value
        return found

    def advance(self, grads: Sequence[Tensor]) -> Sums | None:
        """Run the passes up to the next reduction and return its sums by tensor, or None at the end."""
        if self._next == 0:
            self._table.set_grads(grads, self._in_order)
            self._table.stage()
            self._read: dict[str, Tensor] = {}
            self._memory.begin()
        while self._next < len(self._stages):
            stage = self._stages[self._next]
            self._next += 1
            if isinstance(stage, WholePass):
                self._run_whole(stage)
                self._read = {}  # what it has made lies anew in each step
                continue
            if stage.each.then:
                self._run_lines(stage)
                continue
            self._run_kernel(stage)
            if stage.each.sums:
                return stage.totals()
        self._finish()
        return None

    def _run_lines(self, stage: Any) -> None:
        sums = self._line_sums[stage.each]
        assert isinstance(sums, GpuLineSums)
        sums.withheld = None if self._withheld is self._made else self._withheld
        self._run_kernel(stage)
        with torch.no_grad():
            sums.evaluate(self._by_row(), self._step_of)

    def _run_kernel(self, stage: Any) -> None:
        self._read = self._read or self._there()
        with torch.cuda.device_of(self._made):  # Triton launches on the present device
            stage.run(self._read, self._withheld, self._aligned)

    def _there(self) -> dict[str, Tensor]:
        """Return the tables on the device as they are to be now."""
        if capturing(self._device):
            there, self._aligned = self._tables.captured(), self._is_aligned()
            self._tables.outdate()  # other gradients were looked at for alignment
        else:
            self._aligned = self._is_aligned() if self._tables.sent() else self._aligned
            there = self._tables.there
        for i, value in self._on_device:
            there["settings"].view(-1)[i].copy_(value)
        self._memory.enter(there["addresses"])
        return there | {"sums": self._sums}

    def release(self) -> None:
        """Let go of the gradients, and of what was made per line."""
        super().release()
        self._memory.release()

    def _finish(self) -> None:
        super()._finish()
        if not capturing(self._device):
            self._tables.make_ready()
            self._done += 1
            increment_version(self._counters)

    def _step_of(self, i: int) -> float:
        """Return the number of this step for a tensor, read again only if somebody else has written it.

        Each step of this job makes both the count of steps and the counter's version one more.
        """
        counter = self._batch.states[i].get(STEP)
        if counter is None:
            return 0.0
        version, (known, first) = counter._version - self._done, self._first_steps.get(i, (None, 0.0))
        if version != known:
            first = super()._step_of(i) - self._done
            self._first_steps[i] = version, first
        return first + self._done

    def take(self, totals: Any) -> None:
        """Take the totals, by tensor, of the sums that `advance` returned last."""
        width = totals.shape[1]
        self._sums[:, self._taken : self._taken + width] = totals
        self._taken += width


def capturing(device: torch.device) -> bool:
    """Tell whether what runs on ``device`` becomes part of a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
