"""Is training on several processes faster? DDP beside one process, in turns, with the losses of each."""

from fallline.compare.cost import core_share
from fallline.compare.judgement.wording import plural
from fallline.report.finding import Finding
from fallline.studies.lab import Lab
from fallline.studies.measuring.data_parallel import Size, gpus, measured
from fallline.studies.measuring.speedup import figures, sameness, shared_cores, speedups, table, told
from fallline.studies.measuring.timing import busy, cores, stamp
from fallline.studies.measuring.workloads import workloads
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import scale
from fallline.tasks.task import sample_count


def answer(lab: Lab) -> Finding:
    """Train the task, the task with larger batches, and a wide network on 1, 2 and 4 processes."""
    counts = tuple(count for count in ((1, 2) if lab.quick else (1, 2, 4)) if count <= (gpus() or 4))
    _refuse(lab, counts[-1])
    size = Size(counts, *((6, 0.1, 10) if lab.quick else (9, 0.3, 50)), lab.seed)
    free = core_share(cores())
    curves = measured(workloads(lab.task, lab.quick), size, lab.folder)
    found = [each for one in curves for each in speedups(one)]
    return Finding(
        STUDY.name,
        STUDY.question,
        scale(lab.task),
        told(found),
        [*shared_cores(counts), sameness(found)],
        [table(found)],
        figures(found, curves),
        [*busy(free), *CAVEATS],
        {"Protocol": f"{plural(size.rounds, 'round')} in turns, fallline's AdamW, one thread each, "
         f"gradients averaged by DistributedDataParallel over {'NCCL' if gpus() else 'gloo'}", **stamp()},
    )  # fmt: skip


def _refuse(lab: Lab, processes: int) -> None:
    task = lab.task
    if lab.budget is not None:
        raise StudyError(
            "the study of workers times the same steps on each number of processes, of which a budget cannot "
            "leave any out; leave out --budget, and add --quick for fewer"
        )
    if sample_count(task.train) is None:
        raise StudyError("a stream has no epoch to time; name a task whose training data have a length")
    if task.batch_size < processes:
        raise StudyError(f"batches of {task.batch_size} cannot be divided by {processes}; raise batch_size")


CAVEATS = [
    "Each process has all of the data in memory; reading data from files would be divided, too.",
    "Processes on one machine share its memory bandwidth and caches; across machines the network decides.",
    "The last batch of an epoch is smaller; with fewer samples than processes it is left out.",
]

STUDY = Study("workers", "Is training on several processes faster?", answer)
