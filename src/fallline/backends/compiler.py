"""From generated source to machine code: LLVM optimises what `lowering` makes of it.

The object file is kept: a process that finds it loads it in milliseconds.
"""

import ctypes
import hashlib
import linecache
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from llvmlite import binding as llvm

#: The entry points of a generated module; each takes the address of a job.
ENTRIES = ("once", "work")
_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_int64)


class Kernel:
    """Machine code of a generated module, loaded: ``once``, ``work``, and the address of ``work``."""

    def __init__(self, machine_code: bytes):
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code))
        self._engine.finalize_object()
        once, self.address = (self._engine.get_function_address(f"fallline_{name}") for name in ENTRIES)
        self.once: Callable[[int], object] = _TYPE(once)
        self.work: Callable[[int], object] = _TYPE(self.address)


def compile_object(text: str) -> bytes:
    """Return the machine code of a generated module, an object file for this machine's CPU."""
    return _machine().emit_object(_optimised(text))


def assembly(text: str) -> str:
    """Return the assembly of a generated module."""
    return _machine().emit_assembly(_optimised(text))


def host() -> str:
    """Return what machine code depends on: CPU, its features and the version of LLVM."""
    return f"{llvm.get_host_cpu_name()} {_features()} {llvm.llvm_version_info}"


def _machine() -> Any:
    """Return a new description of this machine: the engine that it is given to owns it."""
    _initialize()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=_features(), opt=3, jit=True
    )


def _features() -> str:
    """Return what the CPU has. Its registers of 512 bits are used on Intel's, too, as LLVM does not."""
    features = llvm.get_host_cpu_features()
    return features.flatten() + (",-prefer-256-bit" if features.get("avx512f") else "")


@cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _optimised(text: str) -> Any:
    """Return the optimised LLVM module of both entry points."""
    from fallline.backends.lowering import lower

    generated = _executed(text)
    lowered = lower({f"fallline_{name}": getattr(generated, f"_{name}") for name in ENTRIES})
    module, machine = llvm.parse_assembly(lowered), _machine()
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module


def _executed(text: str) -> ModuleType:
    """Return the generated module, executed so that its names stand for what it imports."""
    filename = f"<fallline kernel {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    module = ModuleType("fallline_kernel")
    exec(compile(text, filename, "exec"), module.__dict__)
    return module
