"""Experiments on several processes that train together, timed in turns with one."""

from collections.abc import Callable
from functools import partial

from fallline.claims.claim import ClaimError
from fallline.claims.experiments.experiment import Experiment
from fallline.claims.samples import Samples
from fallline.compare.judgement.wording import plural
from fallline.studies.lab import Lab
from fallline.studies.measuring.data_parallel import Size, gpus, measured, workload
from fallline.studies.measuring.timing import cores
from fallline.studies.measuring.workloads import wide_task
from fallline.tasks.load import load
from fallline.tasks.task import Task

#: Speed-ups that are promised, by the number of processes.
PROMISED = {2: 1.7, 4: 3.0}
#: Rounds of timing, the seconds of a timing, and the steps of the trainings whose losses are compared.
ROUNDS, SECONDS, STEPS = 12, 0.3, 2
QUICK_ROUNDS, QUICK_SECONDS = 8, 0.1


def speed(make: Callable[[], Task], count: int, lab: Lab) -> Samples:
    """Measure the time of a step on ``count`` processes, beside the time of one over what is promised.

    Raises:
        ClaimError: fewer GPUs, and fewer cores, than processes.
    """
    where = place(count, gpus(), cores())
    task, promised = make(), PROMISED[count]
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if lab.quick else (ROUNDS, SECONDS)
    size = Size((1, count), rounds, seconds, STEPS, lab.seed)
    (found,) = measured([workload(task.name, task)], size, lab.folder)
    times = {
        f"{count} at once": found.seconds[str(count)],
        f"1 alone over {promised:g}": [second / promised for second in found.seconds["1"]],
    }
    cells = {arm: {(turn, 0): second for turn, second in enumerate(each)} for arm, each in times.items()}
    scale = f"{found.parameters:,} parameters, batches of {task.batch_size}, {rounds} rounds in turns"
    return Samples({"time": cells}, f"{task.name}, {where}", scale)


def place(count: int, gpus: int, cores: int) -> str:
    """Return where ``count`` processes run, each on a GPU or a core of its own, or raise.

    Example:
        >>> place(2, gpus=0, cores=2)
        '2 cores'
    """
    if gpus >= count:
        return plural(gpus, "GPU")
    if not gpus and cores >= count:
        return plural(cores, "core")
    here = plural(gpus, "GPU") if gpus else f"{plural(cores, 'core')} and no GPUs"
    raise ClaimError(f"{count} processes need a GPU or a core each, and this machine has {here}")


TASKS = {
    "": ("digits", partial(load, "digits")),
    ", wide": ("a network of 1.1 million parameters", wide_task),
}
PROCESSES = tuple(
    Experiment(f"{count} processes{kind}", f"{about} on {count} processes", partial(speed, make, count))
    for count in PROMISED
    for kind, (about, make) in TASKS.items()
)
