"""Symmetric products by Triton: compiled and interpreted where no GPU is, run on one with `-m gpu`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is in the extra gpu")

CHECKS = Path(__file__).with_name("gpu_products_cases.py")
#: Bytes of shared memory that a program may have on compute capability 9.0.
SHARED = 227 * 1024


def compiled(adds):
    """Return the kernel in bfloat16 as it is compiled for compute capability 9.0."""
    import triton.language as tl
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fallline.backends.gpu_products import COLUMNS, DEPTH, ROWS, STAGES, WARPS, symmetric_product

    constants = {"rows": ROWS, "columns": COLUMNS, "depth": DEPTH, "adds": adds, "kind": tl.bfloat16}
    tiles = {
        "left": (ROWS, DEPTH), "right": (COLUMNS, DEPTH), "added": (ROWS, COLUMNS), "out": (ROWS, COLUMNS),
        "mirrored": (COLUMNS, ROWS),
    }  # fmt: skip
    types = {name: f"tensordesc<bf16[1, {high}, {wide}]>" for name, (high, wide) in tiles.items()}
    types |= {"alpha": "fp32", "beta": "fp32", "length": "i32", "count": "i32"}
    named = {(symmetric_product.arg_names.index(name),): value for name, value in constants.items()}
    signature = types | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=symmetric_product, signature=signature, constexprs=named)
    options = {"num_warps": WARPS, "num_stages": STAGES, "enable_fp_fusion": True}
    return triton_compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@pytest.mark.parametrize("adds", [False, True])
def test_it_compiles_to_products_by_groups_of_warps_that_copies_of_tiles_feed(adds):
    kernel = compiled(adds)
    assembly = kernel.asm["ptx"]
    assert "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16" in assembly
    copies = r"cp\.async\.bulk\.tensor\.3d\.shared::(cta|cluster)\.global"
    assert re.search(copies, assembly)  # tiles come by tensor copies
    assert "cp.async.bulk.tensor.3d.global.shared::cta" in assembly  # and go by them
    assert not re.search(r"(ld|st)\.(global|local)", assembly)  # nothing else does, and registers suffice
    assert kernel.metadata.shared <= SHARED


@pytest.mark.long
def test_it_agrees_with_torch_in_the_interpreter():
    run(os.environ | {"TRITON_INTERPRET": "1"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_it_agrees_with_torch_on_the_gpu():
    run(os.environ)


def run(environment):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(CHECKS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
