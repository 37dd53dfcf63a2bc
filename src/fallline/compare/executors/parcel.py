"""A job made to travel: a machine that unpacks it needs fallline, and none of the user's files.

What the user wrote is pickled by value, code and all, and what has a name in the Python installation by
reference. The source goes along as text, because a rule is read before it is compiled.
"""

import linecache
import pickle
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import fallline
from fallline.compare.errors import ComparisonError
from fallline.compare.executors.worker import Job
from fallline.core.registry import entries, find, register
from fallline.core.transform import Transform
from fallline.tasks.task import Task

#: Packages whose versions a result depends on.
DECISIVE = ("fallline", "torch")


def packed(job: Job, task: Task) -> bytes:
    """Return ``job`` with ``task`` and the optimizers that its file registered, for `unpacked` elsewhere."""
    own = [find(arm.optimizer) for arm in job.arms.values()]
    modules = users_modules()
    with _by_value(modules):
        try:
            content = _dumps((own, replace(job, task=_dumps(task))))
        except Exception as error:
            raise ComparisonError(
                f"task {task.name!r} cannot be sent to other machines ({error}); make what cannot be pickled "
                "inside the model's or the data's function, or leave out --executor ray"
            ) from None
    return pickle.dumps((_versions(), _sources(job, modules), content))


def unpacked(parcel: bytes) -> tuple[Job, Task]:
    """Return what `packed` was given, with its optimizers registered in this process."""
    versions, sources, content = pickle.loads(parcel)
    if versions != _versions():
        raise ComparisonError(f"this machine has {_versions()}, the driver {versions}; install the same")
    for file, text in sources.items():
        if not Path(file).exists():
            linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    own, job = pickle.loads(content)
    for entry in own:
        if entry.name not in entries():
            register(entry)
    return job, job.load()


def users_modules() -> list[ModuleType]:
    """Return the imported modules that belong neither to the Python installation nor to fallline."""
    paths = sysconfig.get_paths()
    installed = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed += [*site.getsitepackages(), site.getusersitepackages(), str(Path(fallline.__file__).parent)]
    return [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and module.__name__ == name != "__main__"
        if (file := vars(module).get("__file__")) and not _lies_in(file, installed)
    ]


def _lies_in(file: str, folders: Iterable[str]) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)


@contextmanager
def _by_value(modules: list[ModuleType]) -> Iterator[None]:
    from ray.cloudpickle import cloudpickle

    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _dumps(content: Any) -> bytes:
    """Pickle by value what cloudpickle does, and the user's transforms, which pickle themselves by name."""
    from ray.cloudpickle import cloudpickle

    class Pickler(cloudpickle.Pickler):
        dispatch_table = {
            **cloudpickle.Pickler.dispatch_table,
            Transform: _reduced,
            MappingProxyType: lambda proxy: (MappingProxyType, (dict(proxy),)),
        }

    file = BytesIO()
    Pickler(file).dump(content)
    return file.getvalue()


def _reduced(transform: Transform) -> tuple[Any, ...]:
    if transform.rule.__module__.startswith("fallline."):
        return transform.__reduce__()
    return Transform, tuple(getattr(transform, field.name) for field in fields(transform))


def _sources(job: Job, modules: list[ModuleType]) -> dict[str, str]:
    """Return the text of the user's files by absolute path, as code objects name them."""
    named = [job.task if isinstance(job.task, str) else "", *(arm.optimizer for arm in job.arms.values())]
    files = [str(Path(name.partition(".py")[0] + ".py").resolve()) for name in named if ".py" in name]
    files += [file for module in modules if (file := module.__file__) and file.endswith(".py")]
    return {file: text for file in files if (text := "".join(linecache.getlines(file)))}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in DECISIVE}
