"""Train on several processes, by data parallelism (DDP) or in shards (FSDP2), save, and go on later.

    torchrun --standalone --nproc-per-node 2 examples/distributed.py --mode ddp --steps 40
    torchrun --standalone --nproc-per-node 2 examples/distributed.py --mode fsdp --steps 20 --save checkpoint
    torchrun --standalone --nproc-per-node 1 examples/distributed.py --mode fsdp --steps 40 --load checkpoint

Every process takes its share of each batch and the gradients are averaged, so any number of processes that
divides the batch makes the same steps, but for rounding. A checkpoint is of the model and the optimizer, not
of the processes: what two saved, one loads, in the other mode, too. With GPUs each process has one.
"""

import argparse
import os

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import fallline
from fallline.tasks import load

BATCH = 64


def make_model() -> nn.Module:
    """Return a classifier of digits, the same in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10))


def sharded(model: nn.Module) -> nn.Module:
    """Return the model with each layer's parameters divided between the processes."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    for layer in model.children():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


MODES = {"ddp": DistributedDataParallel, "fsdp": sharded}


def batch(data: tuple[Tensor, Tensor], step: int, rank: int, world: int) -> tuple[Tensor, Tensor]:
    """Return this process's share of the batch of ``step``, which depends on the step alone."""
    inputs, labels = data
    drawn = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(step))[:BATCH]
    mine = drawn.chunk(world)[rank]
    return inputs[mine], labels[mine]


def save(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, folder: str) -> None:
    """Write a checkpoint, each process what it holds."""
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state, "step": step}, checkpoint_id=folder)


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> int:
    """Load a checkpoint that any number of processes wrote, and return its step."""
    weights, state = get_state_dict(model, optimizer)
    saved = {"model": weights, "optimizer": state, "step": 0}
    dcp.load(saved, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
    return saved["step"]


def met() -> torch.device:
    """Join the other processes, and return the device of this one."""
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")
    return device


def mean(loss: Tensor) -> float:
    """Return the mean of a loss over the processes, whose shares are equally large."""
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def train(asked: argparse.Namespace, device: torch.device) -> None:
    """Train, and print the loss of each step over all processes."""
    rank, world = dist.get_rank(), dist.get_world_size()
    if BATCH % world:
        raise SystemExit(f"{world} processes cannot share batches of {BATCH} equally; take 1, 2, 4, 8 ...")
    data = load("digits").train
    model = MODES[asked.mode](make_model().to(device))
    optimizer = fallline.AdamW(model.parameters(), lr=3e-3)
    first = restore(model, optimizer, asked.load) if asked.load else 0
    for step in range(first, asked.steps):
        inputs, labels = (part.to(device) for part in batch(data, step, rank, world))
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        whole = mean(loss)
        if rank == 0:
            print(f"step {step} loss {whole:.9g}", flush=True)
    if asked.save:
        save(model, optimizer, asked.steps, asked.save)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mode", choices=MODES, default="ddp")
    parser.add_argument("--steps", type=int, default=40, help="of the whole training")
    parser.add_argument("--save", help="folder for a checkpoint after the last step")
    parser.add_argument("--load", help="folder of a checkpoint to go on from")
    return parser.parse_args()


if __name__ == "__main__":
    asked = arguments()
    device = met()
    train(asked, device)
    dist.barrier()  # without it gloo may still hold tensors when Python ends, which aborts the process
    dist.destroy_process_group()
