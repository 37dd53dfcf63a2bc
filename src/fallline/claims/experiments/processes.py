"""Experiments on several processes that train together, timed in turns with one."""

from collections.abc import Callable
from functools import partial

from fallline.claims.experiments.experiment import Experiment
from fallline.claims.samples import Samples
from fallline.compare.judgement.wording import plural
from fallline.studies.lab import Lab
from fallline.studies.measuring.data_parallel import Size, measured, workload
from fallline.studies.measuring.timing import cores
from fallline.studies.measuring.workloads import wide_task
from fallline.tasks.load import load
from fallline.tasks.task import Task

COUNTS = (1, 2, 4)
#: Speed-ups that are promised, by the number of processes.
PROMISED = {2: 1.7, 4: 3.0}
#: Rounds of timing, the seconds of a timing, and the steps of the trainings whose losses are compared.
ROUNDS, SECONDS, STEPS = 12, 0.3, 2
QUICK_ROUNDS, QUICK_SECONDS = 8, 0.1


def speed(make: Callable[[], Task], lab: Lab) -> Samples:
    """Measure the time of a step on 1, 2 and 4 processes, beside the time of one over what is promised."""
    task = make()
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if lab.quick else (ROUNDS, SECONDS)
    size = Size(COUNTS, rounds, seconds, STEPS, lab.seed)
    (found,) = measured([workload(task.name, task)], size, lab.folder)
    times = {f"{count} at once": found.seconds[str(count)] for count in COUNTS}
    times |= {
        f"1 alone over {factor:g}": [second / factor for second in found.seconds["1"]]
        for factor in PROMISED.values()
    }
    cells = {arm: {(turn, 0): second for turn, second in enumerate(each)} for arm, each in times.items()}
    scale = f"{found.parameters:,} parameters, batches of {task.batch_size}, {rounds} rounds in turns"
    return Samples({"time": cells}, f"{task.name}, {plural(cores(), 'core')}", scale)


PROCESSES = (
    Experiment("processes", "digits on 1, 2 and 4 processes", partial(speed, partial(load, "digits"))),
    Experiment(
        "processes, wide",
        "a network of 1.1 million parameters on 1, 2 and 4 processes",
        partial(speed, wide_task),
    ),
)
