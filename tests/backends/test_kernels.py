"""Generated code: vectorised, independent of the number of threads, and safe in its cache."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fallline
from fallline import summed, transform
from fallline.backends import compiler, kernel_cache, threads
from fallline.gradients import clip_by_global_norm
from optimizers.cases import CASES, IDS

FIRST_STEP = """
import sys, torch, fallline
p = torch.nn.Parameter(torch.ones(64)); p.grad = torch.ones(64)
fallline.{name}([p]).step()
print(p[0].item(), "fallline.backends.lowering" in sys.modules)
"""


def kernel_of(cls, settings, dtype=torch.float32):
    p = torch.nn.Parameter(torch.zeros(8, dtype=dtype))
    return fallline.show_kernel(cls([p], **settings))


def vector_lines(assembly):
    """Return the instructions on packed numbers: zmm or ymm registers, or on Arm 4s and 2d lanes."""
    wide = ("zmm", "ymm", ".4s", ".2d")
    return [line for line in assembly.splitlines() if any(w in line for w in wide)]


OTHERS = [pytest.param(dtype, marks=pytest.mark.long) for dtype in (torch.bfloat16, torch.float64)]


@pytest.mark.parametrize("dtype", [torch.float32, *OTHERS], ids=str)
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_loops_are_vectorised(cls, settings, dtype):
    lines = vector_lines(compiler.assembly(kernel_of(cls, settings, dtype)))
    packed = [line for line in lines if any(op in line for op in ("mulp", "addp", "subp", "fmul", "fsub"))]
    assert packed, "no arithmetic on packed numbers"


@pytest.mark.parametrize("cls", [fallline.LAMB, fallline.LARS, fallline.DoG, fallline.Prodigy])
def test_loops_that_only_read_are_vectorised_over_all_their_streams(cls):
    modules = re.split(r'^(?="""[^"]*\n\nWritten by)', kernel_of(cls, {}), flags=re.MULTILINE)
    reading = [m for m in modules if "for _stream in range(" in m]
    assert reading
    for module in reading:
        lines = compiler.assembly(module).splitlines()
        assert any(re.search(r"vaddpd.*[yz]mm|fadd.*2d", line) for line in lines)


@pytest.mark.parametrize("size", [*range(1, 36), 1000, 4095, 65536 + 17])
def test_a_sum_takes_each_element_once(size):
    p = torch.nn.Parameter(torch.zeros(size, dtype=torch.float64))
    p.grad = 2.0 ** (torch.arange(size) % 20).double()  # whose squares add up without rounding
    norm = math.sqrt(math.fsum((p.grad * p.grad).tolist()))
    fallline.SGD([p], lr=1.0, before=[clip_by_global_norm(1.0)]).step()
    assert torch.allclose(p, -p.grad / (norm + 1e-6), rtol=1e-15, atol=0)


@summed(over="tensor")
def elements(g):
    return 1.0


@transform(sums=(elements,))
def divide_by_elements(g, *, elements):
    return g / elements


def test_a_sum_may_read_no_element():
    p = torch.nn.Parameter(torch.ones(4))
    p.grad = torch.ones(4)
    fallline.chain(divide_by_elements)([p]).step()
    assert p.tolist() == [0.75] * 4


def test_kernels_that_go_over_lines_are_shown_with_what_is_computed_for_each_line():
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(4, 3), (5, 1), (2, 3, 3, 3)]]
    shown = fallline.show_kernel(fallline.Adafactor(params))
    modules = re.split(r'^(?="""[^"]*\n\nWritten by)', shown, flags=re.MULTILINE)
    over_lines = [m.split("@per_line")[0] for m in modules if "def _lines(" in m]
    assert len(over_lines) == 6, "three passes, each over lines of several elements and of one"
    assert all(vector_lines(compiler.assembly(m)) for m in over_lines)
    assert shown.count("def factored_rms(") == 1


def test_the_pool_that_stands_in_for_openmp_computes_the_same(monkeypatch, two_threads):
    def train():
        p = torch.nn.Parameter(torch.linspace(-1, 1, 300_001))
        optimizer = fallline.Adam([p])
        for t in range(3):
            p.grad = torch.cos(p.detach() + t)
            optimizer.step()
        return p.detach().clone()

    with_openmp = train()
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    monkeypatch.setattr(threads, "count", lambda: 3)
    assert torch.equal(with_openmp, train())
    assert threads._pool is not None, "the pool has run"


def first_step(cache: Path, name="SGD", **environment):
    return subprocess.run(
        [sys.executable, "-c", FIRST_STEP.format(name=name)],
        capture_output=True,
        text=True,
        env={**os.environ, "FALLLINE_CACHE_DIR": str(cache), **environment},
    )


def test_a_warm_cache_needs_no_compiling(tmp_path):
    cache = tmp_path / "kernels"
    assert first_step(cache).stdout.split()[1] == "True"
    assert first_step(cache).stdout.split() == ["0.9990000128746033", "False"]
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "path",
    [
        *(f"backends/{name}.py" for name in ("compiler", "lowering", "primitives", "narrow")),
        *(f"core/{name}.py" for name in ("source", "formats", "rounding")),
    ],
)
def test_kernels_have_another_name_when_what_makes_them_changes(path, monkeypatch):
    before, read, changed = (
        kernel_cache._identity("text"),
        Path.read_text,
        Path(fallline.__file__).parent / path,
    )
    assert kernel_cache._identity("text") == before
    monkeypatch.setattr(Path, "read_text", lambda self: read(self) + "# changed" * (self == changed))
    assert kernel_cache._identity("text") != before


def test_kernels_have_another_name_on_another_machine(monkeypatch):
    before = kernel_cache._identity("text")
    monkeypatch.setattr(kernel_cache, "host", lambda: "another CPU")
    assert kernel_cache._identity("text") != before


@pytest.mark.long
def test_a_damaged_object_is_compiled_anew(tmp_path):
    first_step(tmp_path)
    (kernel,) = tmp_path.glob("*.o")
    content = kernel.read_bytes()
    kernel.write_bytes(content[: len(content) // 2])
    assert first_step(tmp_path).stdout.split() == ["0.9990000128746033", "True"]
    assert len(kernel.read_bytes()) == len(content)


def test_a_folder_that_others_can_write_is_not_trusted(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    monkeypatch.setenv("FALLLINE_CACHE_DIR", str(tmp_path))
    assert "chmod 700" in str(kernel_cache.usable())
    assert first_step(tmp_path).stdout.split()[0] == "0.9990000128746033"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_means_compiling_in_memory(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert first_step(blocked / "cache").stdout.split()[0] == "0.9990000128746033"


@pytest.mark.long
def test_processes_that_start_together_share_one_kernel(tmp_path):
    command = [sys.executable, "-c", FIRST_STEP.format(name="Adam")]
    environment = {**os.environ, "FALLLINE_CACHE_DIR": str(tmp_path)}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(6)
    ]
    ends = {process.communicate()[0].split()[0] for process in running}
    assert ends == {"0.9990000128746033"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".py", ".o"}
    assert len(list(tmp_path.iterdir())) == 2
