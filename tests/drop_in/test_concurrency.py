"""Two optimizers in two threads, use after fork, and no growth with the number of steps."""

import subprocess
import sys
import threading
import tracemalloc

import pytest
import torch

from drop_in.pairs import PAIRS, each_pair, make_params, noise, train

SHAPES = [(200, 300), (7,), (50_000,)]


def trained(pair, seed: int, steps: int = 10):
    params = [noise(shape, torch.float32, seed + i).requires_grad_() for i, shape in enumerate(SHAPES)]
    train(pair.ours(params, **pair.rich), params, range(seed, seed + steps))
    return params


@each_pair
def test_two_threads_give_the_bits_that_one_gives(pair, two_threads):
    expected = [trained(pair, seed) for seed in (0, 100, 200)]
    found: dict[int, list[torch.Tensor]] = {}

    def work(seed):
        found[seed] = trained(pair, seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    for seed, params in zip((0, 100, 200), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found[seed], params, strict=True))


def test_different_optimizers_in_threads_at_once():
    expected = {str(pair): trained(pair, 0, steps=5) for pair in PAIRS}
    found = {}

    def work(pair):
        found[str(pair)] = trained(pair, 0, steps=5)

    threads = [threading.Thread(target=work, args=(pair,)) for pair in PAIRS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for name, params in expected.items():
        assert all(torch.equal(a, b) for a, b in zip(found[name], params, strict=True))


FORK = """
import os, sys, torch, fallline
# Many tensors below the size from which torch's own operations use OpenMP, which hangs after a fork.
grads = [torch.ones(20_000) for _ in range(60)] + [torch.ones(10)]
def make():
    params = [torch.zeros_like(grad, requires_grad=True) for grad in grads]
    for param, grad in zip(params, grads):
        param.grad = grad
    return params, getattr(fallline, sys.argv[1])(params, lr=0.1)
started, optimizer = make()
optimizer.step()  # the thread pool runs
fresh, second = make()
def check():
    optimizer.step()
    second.step()
    assert float(started[0].detach().numpy()[-1]) != 0.0
    assert float(fresh[0].detach().numpy()[-1]) != 0.0
child = os.fork()
if child == 0:
    check()
    grandchild = os.fork()
    if grandchild == 0:
        check()
        os._exit(0)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert status == 0, status
check()
"""


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_steps_after_fork(name):
    """Threads do not survive a fork: the child and its child must make their own."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, name], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


@each_pair
def test_memory_does_not_grow_with_steps(pair):
    """Gradients at ever new addresses must not fill any cache."""
    params = make_params()
    optimizer = pair.ours(params, **pair.rich)
    hoard = []

    def go_on(steps):
        for step in steps:
            train(optimizer, params, [step])
            hoard.append([param.grad for param in params])

    go_on(range(10))
    tracemalloc.start()
    try:
        go_on(range(10, 20))
        before = own_memory()
        go_on(range(20, 120))
        grown = own_memory() - before
    finally:
        tracemalloc.stop()
    assert grown < 100 * 16, f"{grown} bytes in 100 steps"  # less than one object a step


def own_memory() -> int:
    """Return the bytes that fallline's own lines have allocated and not given back."""
    mine = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*fallline*")])
    return sum(statistic.size for statistic in mine.statistics("filename"))
