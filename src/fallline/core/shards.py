"""Parameters that several processes hold together (DTensors): their shards, and what those make up."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fallline.core.parts import Shape

#: What is a DTensor for certain not, known without a look at classes that may not be loaded.
_PLAIN = (Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class Spread:
    """How a tensor lies over the processes of a mesh: for each dimension of the mesh a placement of torch's.

    ``shape`` and ``stride`` are those of the whole tensor.
    """

    mesh: Any
    placements: tuple[Any, ...]
    shape: Shape
    stride: tuple[int, ...]

    @cached_property
    def divided(self) -> tuple[int, ...]:
        """The dimensions of the mesh along which processes hold different parts."""
        return tuple(i for i, each in enumerate(self.placements) if not each.is_replicate())

    @cached_property
    def largest(self) -> Shape:
        """The shape of the largest shard."""
        shape = list(self.shape)
        for i in self.divided:
            dim = self.placements[i].dim
            shape[dim] = -(-shape[dim] // self.mesh.size(i))
        return tuple(shape)

    def counts_here(self, dims: Sequence[int]) -> bool:
        """Tell whether this process is the first of those along ``dims`` of the mesh that hold its part."""
        place = self.mesh.get_coordinate()
        return not any(place[i] for i in dims if i not in self.divided)

    def joint(self, part: Tensor) -> Tensor:
        """Return the DTensor of which this process holds ``part``, where that is."""
        return self._placed(part, self.placements, self.shape, self.stride)

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """Return tensors that lie alike, of each of which this process has a part, as a stack of whole ones.

        All processes of the mesh must take part.
        """
        stack = torch.stack(tuple(parts), -1) if len(parts) > 1 else parts[0].unsqueeze(-1)
        shape = (*self.shape, len(parts))
        whole = _joint(stack, self.mesh, self.placements, shape, _dense(shape)).full_tensor()
        return whole.movedim(-1, 0).contiguous().to(stack.device)

    def own(self, stack: Tensor) -> tuple[Tensor, ...]:
        """Return this process's part of each of a stack of whole tensors."""
        from torch.distributed.tensor import Replicate

        whole = stack.movedim(0, -1)
        everywhere = (Replicate(),) * self.mesh.ndim
        joint = _joint(whole, self.mesh, everywhere, tuple(whole.shape), whole.stride())
        return shard(joint.redistribute(placements=self.placements)).to(stack.device).unbind(-1)

    def row(self, part: Tensor, length: int) -> Tensor:
        """Return what each process has of its own, up to ``length`` numbers, as rows of one DTensor."""
        from torch.distributed.tensor import Shard

        row = part.new_zeros([1] * self.mesh.ndim + [length])
        row.view(-1)[: len(part)] = part
        shape = (*self.mesh.shape, length)
        return self._placed(row, tuple(Shard(i) for i in range(self.mesh.ndim)), shape, _dense(shape))

    def _placed(self, part: Tensor, placements: Sequence[Any], shape: Shape, stride: Shape) -> Tensor:
        """Return a DTensor whose part stays where it is: torch moves it to the device of the mesh."""
        if part.device.type == self.mesh.device_type:
            return _joint(part, self.mesh, placements, shape, stride)
        joint = _joint(part.to("meta"), self.mesh, placements, shape, stride)
        if part.is_meta:
            return joint
        joint = torch.empty_like(joint, device=part.device)
        shard(joint).copy_(part)
        return joint

    def __str__(self) -> str:
        return f"{self.placements} on {self.mesh}"


def is_joint(x: Any) -> bool:
    """Tell whether ``x`` is a DTensor, without loading what that is."""
    if type(x) in _PLAIN:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def spread_of(x: Tensor) -> Spread | None:
    """Return how a DTensor lies over processes, or None for any other tensor."""
    if not is_joint(x):
        return None
    joint: Any = x
    return Spread(joint.device_mesh, tuple(joint.placements), tuple(x.shape), x.stride())


def lies_as(spread: Spread | None, x: Any) -> bool:
    """Tell whether a tensor with a value per element lies over processes as ``spread`` says."""
    if spread is None:
        return not is_joint(x)
    return is_joint(x) and x.placements == spread.placements and x.device_mesh == spread.mesh


def elsewhere(spread: Spread | None, x: Tensor) -> bool:
    """Tell whether other processes hold ``x`` than those of ``spread``; None is each for itself."""
    other = spread_of(x)
    return (spread and spread.mesh) != (other and other.mesh)


def laid_as(spread: Spread | None, x: Tensor) -> Tensor:
    """Return a tensor with a value per element as ``spread`` says, if it is not on another mesh."""
    if lies_as(spread, x) or spread is None:
        return x
    if is_joint(x):
        return x.redistribute(placements=spread.placements)  # type: ignore[attr-defined]
    return spread.joint(spread.own(x.detach().unsqueeze(0))[0])


def shard(x: Any) -> Any:
    """Return what this process holds of a DTensor, the same object each time, or ``x`` if it is none."""
    if not is_joint(x):
        return x
    own = x._local_tensor  # to_local() would make another object of a parameter in each step
    return own.wait() if hasattr(own, "wait") else own


def _joint(part: Tensor, mesh: Any, placements: Sequence[Any], shape: Shape, stride: Shape) -> Any:
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(part, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


def _dense(shape: Shape) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
