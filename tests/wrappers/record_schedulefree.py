"""Record trajectories of the package schedulefree into data/; run where that is installed."""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from nest import loss, problem

#: Names of the trajectories, with the arguments of SGD, of the wrapper, and of the learning rate.
CASES = {
    "plain": ({}, {}, [0.1] * 20),
    "momentum, r, beta": ({"momentum": 0.5}, {"momentum": 0.6, "r": 1.0}, [0.1] * 20),
    "warm-up and decay": ({}, {}, [0.02, 0.04, 0.06, 0.08] + [0.1] * 8 + [0.03] * 8),
    "unweighted warm-up": ({}, {"weight_lr_power": 0.0}, [0.02, 0.04, 0.06, 0.08] + [0.1] * 16),
}


def trajectory(optimizer, params, rates):
    """Return y after every step, and x at the end."""
    course = []
    optimizer.train()
    for t, lr in enumerate(rates):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss(params, t).backward()
        optimizer.step()
        course.append([x for p in params for x in p.tolist()])
    optimizer.eval()
    return {"y": course, "x": [x for p in params for x in p.tolist()]}


def main():
    from schedulefree import ScheduleFreeWrapper, SGDScheduleFree

    recorded = {}
    for name, (inner, outer, rates) in CASES.items():
        params = problem()
        optimizer = ScheduleFreeWrapper(torch.optim.SGD(params, lr=0.1, **inner), **outer)
        recorded[name] = trajectory(optimizer, params, rates)
    params = problem()
    recorded["SGDScheduleFree"] = trajectory(SGDScheduleFree(params, lr=0.1), params, [0.1] * 20)
    data = {"package": f"schedulefree {version('schedulefree')}", "trajectories": recorded}
    Path(__file__).with_name("data").joinpath("schedulefree.json").write_text(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
