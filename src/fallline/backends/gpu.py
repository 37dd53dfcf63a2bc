"""The GPU backend: one launch for all parameters of a batch and each pass, through Triton."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline.backends.cpu import Cpu, Job, signature
from fallline.backends.cpu_access import rows
from fallline.backends.gpu_kernel import TYPES, generate
from fallline.backends.gpu_launch import Launch, load
from fallline.core import source
from fallline.core.backend import Batch, Sums
from fallline.core.plan import ElementPass, Pass, WholePass
from fallline.core.precision import AS_TORCH, Precision, precision_of
from fallline.core.transform import STEP


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

    def refuses(self, group: Mapping[str, Any], param: Tensor) -> str | None:
        """Refuse what must stay visible to autograd, other devices, and tensors that are not plain memory."""
        if not (param.is_cuda or interpreted()):
            return f"the parameter is on {param.device}"
        if param.is_cuda and not group.get("fused"):
            return "it has not run on hardware yet, so ask for it: fused=True"
        if group.get("capturable"):
            return "capturable=True"
        if precision_of(group) not in (AS_TORCH, Precision("fp32")):
            return str(precision_of(group))
        reason = missing() or self.refuses_tensor(group, param)
        return reason or (None if param.dtype in TYPES else f"{param.dtype} has no format")

    def prepare(self, batch: Batch) -> "GpuJob":
        """Generate the batch's kernels, and lay out its job."""
        return GpuJob(batch)

    def source(self, batch: Batch) -> str:
        """Return the generated modules, and the source of rules on whole tensors."""
        return "\n\n".join(
            generate(batch.plan, one, signature(batch))
            if isinstance(one, ElementPass)
            else source.text(one.transform.rule)
            for one in batch.plan.passes
        )


class GpuJob(Job):
    """A batch laid out for its kernels, with its tables on the device."""

    def __init__(self, batch: Batch):
        self._device = batch.params[0].device
        self._tables: dict[str, Tensor] = {}
        self._uploaded: dict[str, np.ndarray] = {}
        self._done = 0
        self._first_steps: dict[int, tuple[int, float]] = {}
        scalars = {slot.name for slot in batch.plan.scalar_slots}
        self._of_elements = [row for name, row in rows(batch.plan).items() if name not in scalars]
        super().__init__(batch)

    def _stage(self, one: Pass, dtypes: Any) -> Any:
        if isinstance(one, WholePass):
            return one
        if not self._tables:
            groups = np.array([self._used_rows.index(r) for r in self._batch.rows], np.int64)
            self._arrays = {
                "addresses": self._table.addresses, "settings": self._settings, "fresh": self._fresh,
                "sums": self._sums, "rows": groups,
            }  # fmt: skip
            self._tables = {n: torch.from_numpy(x.copy()).to(self._device) for n, x in self._arrays.items()}
        module = load(generate(self._batch.plan, one, dtypes))
        return Launch(one, module, np.diff(self._table.offsets), self._tables, dtypes.compute)

    def _upload(self, *names: str) -> None:
        """Bring tables that have changed to the device; nothing waits for it."""
        for name in names:
            before = self._uploaded.get(name)
            if before is None or not np.array_equal(self._arrays[name], before):
                self._uploaded[name] = self._arrays[name].copy()
                self._tables[name].copy_(torch.from_numpy(self._uploaded[name]), non_blocking=True)

    def advance(self, grads: Sequence[Tensor]) -> Sums | None:
        """Run the passes up to the next reduction and return its sums by tensor, or None at the end."""
        if self._next == 0:
            self._table.set_grads(grads, self._in_order)
            self._table.stage()
            self._upload("settings", "fresh")
        while self._next < len(self._stages):
            stage = self._stages[self._next]
            self._next += 1
            if isinstance(stage, WholePass):
                self._run_whole(stage)
                continue
            self._upload("addresses")  # what whole rules make lies anew in each step
            stage.run(aligned=not (self._table.addresses[self._of_elements] % 16).any())
            if stage.each.sums:
                return stage.totals()
        self._finish()
        return None

    def _finish(self) -> None:
        super()._finish()
        self._done += 1

    def _step_of(self, i: int) -> float:
        """Return the number of this step for a tensor, read again only if somebody else has written it."""
        counter = self._batch.states[i].get(STEP)
        if counter is None:
            return 0.0
        version, first = self._first_steps.get(i, (None, 0.0))
        if version != counter._version:
            first = super()._step_of(i) - self._done
            self._first_steps[i] = counter._version, first
        return first + self._done

    def take(self, totals: Any) -> None:
        """Take the totals, by tensor, of the sums that `advance` returned last."""
        width = totals.shape[1]
        self._tables["sums"][:, self._taken : self._taken + width] = totals
        self._taken += width
