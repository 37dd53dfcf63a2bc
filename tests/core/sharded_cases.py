"""Every case of sharded parameters by its name, and what a process does that runs them with others."""

import json
import traceback
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sharded
import torch
import torch.distributed as dist
from sharded import Case, Crew, made, same_as_each_shard, same_as_whole, state_dicts_go_round

import fallline
from fallline import Precision
from fallline.gradients import centralize, clip_by_global_norm
from fallline.routing import Route, rest, route
from fallline.schedules import cosine
from optimizers.beyond import ABSOLUTE, FREE, LINES, SUMMED, WHOLE
from optimizers.cases import CASES

MODELS = {
    "AdamW": lambda model: fallline.AdamW(model.parameters(), lr=0.1),
    "clipped": lambda model: fallline.SGD(
        model.parameters(), lr=0.1, before=[clip_by_global_norm(0.5)], momentum=0.9
    ),
    "routes": lambda model: route(
        model, Route("*.bias", fallline.SGD, momentum=0.9), Route(rest, fallline.AdamW), lr=0.1
    ),
    "Adafactor": lambda model: fallline.Adafactor(model.parameters(), lr=0.1),
}

WRAPPERS = {
    "Lookahead": lambda params: fallline.Lookahead(fallline.SGD(params, lr=0.1, momentum=0.9), k=2),
    "EMA": lambda params: fallline.EMA(fallline.AdamW(params), decay=0.9),
    "ScheduleFree": lambda params: fallline.ScheduleFree(fallline.SGD(params, lr=0.1)),
    "schedule": lambda params: fallline.AdamW(params, lr=0.1 * cosine(20)),
}

ROUNDED = [
    (Precision(state="8bit"), torch.float32),
    (Precision(state="4bit"), torch.bfloat16),
    (Precision(state="bf16", params="stochastic"), torch.bfloat16),
    (Precision(state="fp32", params="kahan"), torch.bfloat16),
    (Precision(state="8bit", params="master"), torch.bfloat16),
]

CENTRAL = [(fallline.SGD, {"lr": 0.1, "before": [centralize]})]


def _cases() -> Iterator[tuple[str, Case]]:
    """Yield each case and its name."""
    for cls, settings in (*CASES, *ABSOLUTE):
        yield f"elements {cls.__name__} {settings}", partial(same_as_whole, made(cls, settings))
    for cls, settings in (*SUMMED, *FREE, *LINES):
        # sums of float64 are made in another order
        how = {"dtype": torch.float64, "tolerance": 1e-12}
        yield f"sums {cls.__name__} {settings}", partial(same_as_whole, made(cls, settings), **how)
    for cls, settings in (*WHOLE, *CENTRAL):
        yield f"whole {cls.__name__} {settings}", partial(same_as_whole, made(cls, settings))
    for cls in (fallline.SOAP, fallline.Shampoo, fallline.PSGDKron):
        yield f"whole {cls.__name__}", partial(same_as_whole, made(cls, {"lr": 0.1}))
    for cls in (fallline.AdamW, fallline.LAMB, fallline.Adafactor, fallline.SOAP):
        how = {"dtype": torch.float64, "tolerance": 1e-12}
        yield f"square {cls.__name__}", partial(same_as_whole, made(cls, {}), dims=2, **how)
        yield f"eager {cls.__name__}", partial(same_as_whole, made(cls, {}, "eager"), **how)
    for precision, dtype in ROUNDED:
        make = made(fallline.Adam, {"precision": precision})
        yield f"rounded {precision}", partial(same_as_each_shard, make, dtype=dtype)
        yield f"rounded and loaded {precision}", partial(state_dicts_go_round, make, full=False, dtype=dtype)
    for cls in (fallline.AdamW, fallline.Adafactor, fallline.SOAP):
        for full in (False, True):
            yield f"loaded {cls.__name__} {full}", partial(state_dicts_go_round, made(cls, {}), full=full)
    for name, make in WRAPPERS.items():
        yield name, partial(sharded.wrapped, make)
    for name, make in MODELS.items():
        yield f"fully sharded {name}", partial(sharded.fully_sharded_training, make)
        yield f"tensor parallel {name}", partial(sharded.tensor_parallel_training, make)
        yield f"both ways {name}", partial(sharded.both_ways, make)
    for name in sharded.CHECKPOINTED:
        yield f"written {name}", partial(sharded.a_checkpoint_is_written, name)
        yield f"read {name}", partial(sharded.a_checkpoint_is_read, name)
    for what in ("shard", "state"):
        yield f"replaced {what}", partial(sharded.what_was_replaced_is_noticed, what)
    for case in (
        sharded.steps_that_are_not_finite_are_left_out_by_all,
        sharded.all_take_scaled_gradients_or_none,
        sharded.replicas_stay_equal,
        sharded.one_reduction_is_one_all_reduce,
        sharded.gradients_that_lie_otherwise_are_brought_over,
        sharded.what_is_elsewhere_is_refused,
        sharded.a_step_invalidates_what_backward_has_saved,
        sharded.codes_of_another_sharding_are_refused,
        sharded.state_on_another_mesh_is_refused,
        sharded.explain_tells_of_shards,
    ):
        yield case.__name__, case


CASES_BY_NAME = dict(_cases())


def work(rank: int, world: int, folder: str, names: list[str]) -> None:
    """Be one of the processes: run all cases with the others, and write down what came of each."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    crew, came = Crew(Path(folder)), {}
    for name in names:
        try:
            CASES_BY_NAME[name](crew)
            came[name] = ""
        except (Exception, pytest.fail.Exception):
            came[name] = traceback.format_exc()
        (Path(folder) / f"{rank}.json").write_text(json.dumps(came))
    dist.barrier()
    dist.destroy_process_group()
