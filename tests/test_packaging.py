"""What is shipped, what importing it costs, and which package may know which."""

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

import fallline

REPOSITORY = Path(__file__).parents[1]
PACKAGE = Path(fallline.__file__).parent

#: The packages inside fallline that each may import, besides itself.
ARROWS = {
    "core": set(),
    "backends": {"core"},
    "schedules": {"core"},
    "penalties": {"core"},
    "gradients": {"core"},
    "routing": {"core"},
    "checkpoints": {"core"},
    "optimizers": {"core", "backends", "schedules", "penalties", "gradients", "routing"},
    "wrappers": {"core", "backends", "schedules", "penalties", "gradients", "optimizers"},
    "tasks": {"core"},
    "compare": {"core", "tasks", "schedules", "checkpoints", "report"},  # a finished comparison is reported
    "studies": {
        "core",
        "tasks",
        "compare",
        "report",
        "schedules",
        "optimizers",
        "penalties",
        "gradients",
        "wrappers",
        "routing",
    },
    "claims": {"core", "tasks", "compare", "studies", "report", "optimizers", "wrappers", "penalties"},
    "report": {"compare"},
    "testing": {"core", "backends", "optimizers", "wrappers", "tasks", "compare"},
}

#: What of `compare` a report may know: records and what follows from them, nothing that runs.
RESULTS = {"records", "statistics", "judgement"}

#: Slow to import and not needed to train; they load on first use.
LATE = ["llvmlite.ir", "triton", "optuna", "plotly", "rich", "sklearn", "ray", "scipy", "matplotlib", "typer"]


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module, by its path below the package."""
    return {str(f.relative_to(PACKAGE)): ast.parse(f.read_text()) for f in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.Module) -> set[str]:
    """Return the full names of all that a module imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which package is meant"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def arrows() -> dict[str, set[tuple[str, ...]]]:
    """Return, for each module, the names it imports from fallline, split at the dots."""
    return {
        path: {tuple(name.split(".")[1:]) for name in imported(tree) if name.startswith("fallline.")}
        for path, tree in modules().items()
    }


def package_of(path: str) -> str:
    return path.split("/")[0]


INSIDE = sorted(path for path in arrows() if "/" in path)


def test_every_package_has_its_arrows():
    assert {package_of(path) for path in INSIDE} <= set(ARROWS)


@pytest.mark.parametrize("path", INSIDE)
def test_arrows_between_packages(path):
    package = package_of(path)
    known = {name[0] for name in arrows()[path] if (PACKAGE / name[0]).is_dir()}
    assert known <= ARROWS[package] | {package}


@pytest.mark.parametrize("path", [path for path in INSIDE if package_of(path) == "report"])
def test_report_reads_results_and_runs_nothing(path):
    assert {name[1] for name in arrows()[path] if name[0] == "compare"} <= RESULTS
    assert not any(name.split(".")[0] == "torch" for name in imported(modules()[path]))


def test_only_python_m_fallline_imports_the_command_line():
    importers = [path for path, names in arrows().items() if any(name[0] == "cli" for name in names)]
    assert importers == ["__main__.py"]


def test_core_and_backends_know_no_optimizer_by_name():
    words = {name.lower() for name in vars(fallline.optimizers) if name[0].isupper()} - {"entry"}
    for path, tree in modules().items():
        if package_of(path) in ("core", "backends"):
            names = {node.id.lower() for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert not names & words, path


def after_import(statement: str) -> set[str]:
    """Return the top-level modules loaded in a new interpreter after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_import_loads_nothing_slow():
    assert not after_import("import fallline") & set(LATE)


def test_training_eagerly_loads_nothing_slow():
    training = (
        "import torch, fallline\n"
        "p = torch.zeros(3, requires_grad=True)\n"
        "p.grad = torch.ones(3)\n"
        "fallline.AdamW([p], foreach=False).step()"
    )
    assert not after_import(training) & set(LATE)


def test_training_does_not_load_torchs_compiler():
    """Torch's own optimizers load it when they are made, which takes a second."""
    training = (
        "import sys, torch, fallline\n"
        "p = torch.zeros(3, requires_grad=True)\n"
        "optimizer = fallline.AdamW([p])\n"
        "for _ in range(2):\n"
        "    optimizer.zero_grad()\n"
        "    p.square().sum().backward()\n"
        "    optimizer.step()\n"
        "optimizer.load_state_dict(optimizer.state_dict())\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    after_import(training)


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def declared(requirements: list[str]) -> set[str]:
    """Return the names in a list of requirements, without versions and extras."""
    return {normalised(re.match(r"[\w.-]+", requirement).group()) for requirement in requirements}


def third_party() -> set[str]:
    """Return the distributions that provide what fallline imports."""
    tops = {name.split(".")[0] for tree in modules().values() for name in imported(tree)}
    tops -= {"fallline"} | set(sys.stdlib_module_names)
    providers = metadata.packages_distributions()
    return {normalised(providers.get(top, [top])[0]) for top in tops}


def test_what_is_imported_is_declared():
    optional = set().union(*(declared(extra) for extra in project()["optional-dependencies"].values()))
    assert third_party() <= declared(project()["dependencies"]) | optional


def test_what_is_declared_is_imported():
    assert declared(project()["dependencies"]) <= third_party()


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normalised(name): version for name, version in pairs}


def test_every_installed_dependency_is_pinned_to_the_version_installed():
    todo = declared([*project()["dependencies"], *project()["optional-dependencies"]["dev"]])
    seen = set()
    while todo - seen:
        name = (todo - seen).pop()
        seen.add(name)
        # Not on all of sys.path: Ray adds a folder of its own with packages that it brings along.
        distribution = next(metadata.distributions(name=name, path=[sysconfig.get_path("purelib")]), None)
        if distribution is None:
            continue  # of another platform or an extra that nobody asked for
        assert distribution.version.split("+")[0] == pins()[name], name
        needed = [line for line in distribution.requires or [] if "extra ==" not in line]
        todo |= declared(needed)


def test_torch_is_pinned_to_the_version_whose_cpu_build_pip_finds():
    assert pins()["torch"] == "2.13.0"
    assert not [name for name in pins() if name.startswith(("nvidia", "triton"))]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Build the wheel with the pinned backend, without fetching anything."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=REPOSITORY, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = wheel.namelist()
    shipped = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    sources = {str(f.relative_to(REPOSITORY / "src")) for f in (REPOSITORY / "src/fallline").rglob("*.py")}
    assert "fallline/py.typed" in shipped
    assert sources <= shipped
    assert all(name.startswith("fallline/") for name in shipped)
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_wheel_names_the_command(wheel):
    (points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "fallline = fallline.__main__:run" in wheel.read(points).decode()


def test_version_is_stated_once_more_only():
    assert fallline.__version__ == project()["version"]
