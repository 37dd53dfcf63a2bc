"""The second implementations against recordings of published packages, and fallline against them.

Each recording is a JSON file that ``record_goldens.py`` wrote; it names package, version and settings.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import fallline
from fallline.core.registry import entries, of_the_user
from optimizers import second
from optimizers.cases import on_backend
from optimizers.second.problem import MATRICES, SHAPES, sampled, start, walk, walk_second
from optimizers.second_settings import CHOSEN, SETTINGS

RECORDINGS = [
    json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "goldens").glob("*.json"))
]

#: Who does what differently from the paper (from torch where its contract is ours): patterns of cases' ids.
DIFFERENT = {
    r"optax\.adagrad": "adds eps under the root",
    r"optax\.amsgrad": "takes the maximum of second moments that are already corrected for their bias",
    r"^NAdam-optax": "keeps one momentum, where Dozat's and torch's grows from step to step",
    r"optax\.radam|optimi\.RAdam": "adds eps to the corrected root, torch before the correction",
    r"optax\.adan": "weighs the gradients' difference by 0.08 = 1 - b2; the paper by 0.92, its 1 - beta2",
    r"optax\.lars": "divides by the norm of gradient plus decay, the paper by the sum of both norms",
    r"optax\.rprop": "gives the step of the step before: its first step moves nothing",
    r"optax\.contrib\.muon": "corrects the momentum's bias and takes rows for inputs in the rate",
    r"pytorch_optimizer\.ADOPT.*fixed": "clips by (t + 1)^(1/4)",
    r"pytorch_optimizer\.ADOPT.*weight_decay.*quadratic": "decays in the first step",
    r"pytorch_optimizer\.MARS.*(fixed|0\.1\)-quadratic)": "corrects eps too, adds 1e-15 under the root",
    r"pytorch_optimizer\.AdaBound\(\).*fixed": "adds 1e-15 under the root: tiny gradients show it",
    r"pytorch_optimizer\.ScheduleFreeAdamW.*fixed": "adds 1e-15 under the root: tiny gradients show it",
    r"pytorch_optimizer\.LARS": "moves vectors by plain gradient descent without decay",
    r"pytorch_optimizer\.Lamb": "decays apart from the trust ratio and corrects the biases outside of it",
    r"pytorch_optimizer\.NovoGrad.*grad_averaging": "takes the whole first gradient, NVIDIA 1 - beta1 of it",
    r"-torch_optimizer\.Shampoo": "takes sums to the power -1/k, the paper to -1/(2k)",
    r"-torch_optimizer\.Lamb": "corrects the biases outside of the trust ratio",
}

#: Who rounds more than float64, what it rounds, and how near that leaves it.
COARSE = {
    r"pytorch_optimizer\.SOAP": (1e-5, "its QR decomposition is in float32"),
    r"pytorch_optimizer\.(Prodigy|DAdaptAdam)": (1e-5, "its sums over the model are in float32"),
    r"-torch_optimizer\.NovoGrad": (1e-6, "its second moment is in float32"),
    r"optax\.adafactor": (1e-8, "its decay rate is in float32"),
    r"ScalableShampoo.*override.*quadratic": (
        1e-6,
        "gradients nearly repeat: small eigenvalues are rounding",
    ),
    r"muon\.SingleDeviceMuon": (1e-6, "adds 1e-7 to the norm, where torch takes the larger of both"),
}


def _name(case, problem):
    settings = ", ".join(f"{name}={value}" for name, value in case["settings"].items())
    return f"{case['optimizer']}-{case['recorded']}({settings})-{problem}"


def _why(table, name):
    return next((why for pattern, why in table.items() if re.search(pattern, name)), None)


def _marks(table, name):
    reason = _why(table, name)
    return [pytest.mark.xfail(strict=True, reason=reason)] if reason else []


def _cases():
    for recording in RECORDINGS:
        for case in recording["cases"]:
            for problem in case["courses"]:
                name = _name(case, problem)
                yield pytest.param(case, problem, id=name, marks=_marks(DIFFERENT, name))


CASES = list(_cases())


@pytest.mark.parametrize(("case", "problem"), CASES)
def test_the_second_implementation_follows_the_published_package(case, problem):
    optimizer = getattr(second, case["optimizer"])(**case["ours"])
    course = walk_second(problem, case["shapes"], optimizer)
    # 13 digits are recorded, and 12 steps of a few roundings each
    tolerance, _ = _why(COARSE, _name(case, problem)) or (1e-10, None)
    np.testing.assert_allclose(course, case["courses"][problem], rtol=tolerance, atol=1e-2 * tolerance)


@pytest.mark.parametrize("pattern", [*DIFFERENT, *COARSE])
def test_each_named_disagreement_is_recorded(pattern):
    assert any(re.search(pattern, case.id) for case in CASES)


@pytest.mark.parametrize("name", second.__all__)
def test_each_second_implementation_agrees_with_a_published_package(name):
    assert any(case.id.startswith(f"{name}-") and not case.marks for case in CASES)


#: Who takes matrices only, and who sparse gradients only.
SHAPES_OF = {"Muon": MATRICES, "NorMuon": MATRICES}
PROBLEMS_OF = {"SparseAdam": ["sparse"], "SparseAdamW": ["sparse"]}

#: Where fallline falls short of its second implementation, by patterns of the case's id.
FAULTS: dict[str, str] = {}

#: Where rounding to float32 on the way, which both do, falls on either side.
UNSTABLE = {
    r"DAdaptAdam\(\{\}\)-quadratic": (1e-5, "d grows 1000 times within 12 steps, and rounding with it"),
    r"SOAP\(\{\}\)-quadratic": (1e-8, "where the first gradient is 0, Adam divides 1e-5 by itself"),
    r"Shampoo\(\{\}\)-quadratic": (1e-6, "gradients nearly repeat: small eigenvalues are rounding"),
}


def _rows(g):
    there = np.flatnonzero(np.any(g.reshape(len(g), -1) != 0, axis=1))
    rows, values = torch.tensor(there[None]), torch.tensor(g[there])
    return torch.sparse_coo_tensor(rows, values, g.shape, check_invariants=True)


def _walk_fallline(problem, shapes, cls, settings, backend):
    params = [torch.nn.Parameter(torch.tensor(p)) for p in start(shapes)]
    optimizer = on_backend(cls(params, **settings), backend)
    estimates = sampled(shapes)

    def give(grads):
        for p, g in zip(params, grads, strict=True):
            p.grad = _rows(g) if problem == "sparse" else torch.tensor(g)

    def step(t, grads):
        if hasattr(optimizer, "update_hessian") and estimates(t) is not None:
            give(estimates(t))
            optimizer.update_hessian()
        give(grads)
        optimizer.step()
        if hasattr(optimizer, "catch_up"):
            optimizer.catch_up()
        return [p.detach().numpy().copy() for p in params]

    return walk(problem, shapes, step)


def _comparisons():
    for name in second.__all__:
        if hasattr(fallline, name):
            for settings in [{}, *SETTINGS[name]]:
                for problem in PROBLEMS_OF.get(name, ["fixed", "quadratic"]):
                    case = f"{name}({settings})-{problem}"
                    yield pytest.param(name, settings, problem, id=case, marks=_marks(FAULTS, case))


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize(("name", "settings", "problem"), list(_comparisons()))
def test_fallline_follows_the_second_implementation(name, settings, problem, backend):
    shapes = SHAPES_OF.get(name, SHAPES)
    ours = _walk_fallline(problem, shapes, getattr(fallline, name), settings, backend)
    theirs = walk_second(problem, shapes, getattr(second, name)(**CHOSEN.get(name, {}), **settings))
    # 12 steps of a few roundings each; steps by the square root of a tiny second moment double them
    tolerance, _ = _why(UNSTABLE, f"{name}({settings})-{problem}") or (1e-10, None)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=1e-2 * tolerance)


#: Classes of fallline that need no second implementation, and why.
WITHOUT_SECOND = {
    "ProximalSGD": "SGD and a proximal operator, which is held to its condition of optimality elsewhere",
}


def test_each_optimizer_has_a_second_implementation():
    exported = {getattr(fallline.optimizers, name) for name in fallline.optimizers.__all__}
    registered = {entry.make for name, entry in entries().items() if name not in of_the_user()}
    classes = {made.__name__ for made in exported | registered if isinstance(made, type)}
    assert classes - set(second.__all__) == set(WITHOUT_SECOND)
