"""From generated source to machine code: Numba types and optimises it, LLVM writes an object file.

The object is kept, not Numba's own cache: a process that finds it loads it in milliseconds, without Numba.
"""

import ctypes
import hashlib
import linecache
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from llvmlite import binding as llvm

#: Where compiled functions write what they return, which is nothing.
_NOTHING = ctypes.c_void_p()
_TYPE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

#: Plain functions: no wrappers for Python, and division by zero gives inf or NaN.
_FLAGS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}

#: The entry points of a generated module; each takes the address of a job.
ENTRIES = ("once", "work")

#: ``work`` as a C function of a pointer, as OpenMP's runtime calls it.
_TEAM = """
declare i32 @fallline_work(ptr, ptr, i64)
define void @fallline_team(ptr %job) {
  %nothing = alloca ptr
  %address = ptrtoint ptr %job to i64
  %status = call i32 @fallline_work(ptr %nothing, ptr null, i64 %address)
  ret void
}
"""


class Kernel:
    """Machine code of a generated module, loaded: ``once``, ``work``, and the address of ``team``."""

    once: Callable[[int], object]
    work: Callable[[int], object]
    team: int

    def __init__(self, machine_code: bytes):
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code))
        self._engine.finalize_object()
        for name in ENTRIES:
            setattr(self, name, self._function(name))
        self.team = self._engine.get_function_address("fallline_team")

    def _function(self, name: str) -> Callable[[int], object]:
        function = _TYPE(self._engine.get_function_address(f"fallline_{name}"))
        nothing = ctypes.addressof(_NOTHING)

        def call(job: int) -> None:
            function(nothing, None, job)

        return call


def compile_object(text: str) -> bytes:
    """Return the machine code of a generated module, an object file for this machine's CPU."""
    return _machine().emit_object(_optimised(text))


def assembly(text: str) -> str:
    """Return the assembly of a generated module."""
    return _machine().emit_assembly(_optimised(text))


def host() -> str:
    """Return what machine code depends on: CPU, its features and the version of LLVM."""
    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()} {llvm.llvm_version_info}"


@cache
def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )


def _optimised(text: str) -> Any:
    """Return the optimised LLVM module of both entry points, under names of their own."""
    module = _executed(text)
    parts = [_entry(getattr(module, f"_{name}"), f"fallline_{name}") for name in ENTRIES]
    for part in (parts[1], llvm.parse_assembly(_TEAM)):
        parts[0].link_in(part)
    return parts[0]


def _executed(text: str) -> ModuleType:
    filename = f"<fallline kernel {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    module = ModuleType("fallline_kernel")
    exec(compile(text, filename, "exec"), module.__dict__)
    return module


def _entry(function: Callable[[int], None], name: str) -> Any:
    from numba import types
    from numba.core import compiler
    from numba.core.registry import cpu_target

    flags = compiler.Flags()
    for option, value in _FLAGS.items():
        setattr(flags, option, value)
    typing, target = cpu_target.typing_context, cpu_target.target_context
    compiled = compiler.compile_extra(typing, target, function, (types.int64,), types.void, flags, {})
    text = compiled.library.get_llvm_str().replace(compiled.fndesc.mangled_name, name)
    return llvm.parse_assembly(text)
