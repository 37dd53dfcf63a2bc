"""What is seen before and while a comparison runs: the plan with its cost, and a bar with the time left."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from fallline.compare.judgement.wording import duration, plural, size
from fallline.compare.planning import Prepared
from fallline.compare.protocol.schedule import Schedule
from fallline.compare.records import Comparison, Plan, Trial
from fallline.tasks.data import is_stream


def print_plan(prepared: Prepared, console: Console) -> None:
    """Print what will be run and how long it will take."""
    plan, task = prepared.plan, prepared.task
    rows = Table.grid(padding=(0, 2))
    rows.add_row("task", Text(f"{plan.task}: {task.summary}" if task.summary else plan.task))
    rows.add_row(*_compared(plan))
    rows.add_row("tuning", _tuning(plan))
    rows.add_row("verdict", f"the best of each again on {plan.seeds} fresh seed{_s(plan.seeds)}")
    rows.add_row("studies", _studies(prepared))
    rows.add_row("training", _training(prepared))
    rows.add_row("cost", _cost(prepared))
    rows.add_row("results", Text(str(prepared.store.folder)))
    console.print(rows)
    for caveat in plan.caveats:
        console.print(f"[dim]note: {caveat}[/dim]")


def print_outcome(comparison: Comparison, folder: Path, console: Console) -> None:
    """Print where the results are, and the first error if any training failed."""
    errors = [trial for trial in comparison.trials if trial.status == "failed"]
    if errors:
        first = (errors[0].error or "").strip().splitlines()[-1]
        share = f"{len(errors)} of {len(comparison.trials)} trainings failed"
        console.print(f"[red]{share}[/red], first {errors[0].spec.arm}:", Text(first))
    console.print(Text(f"{folder}: results.jsonl, report.html", "dim"))


def _compared(plan: Plan) -> tuple[str, Text]:
    """Return what the arms are, and their names."""
    if all(name == arm.optimizer for name, arm in plan.arms.items()):
        return "optimizers", Text(", ".join(plan.arms))
    return "arms", Text("; ".join(plan.arms))


def _training(prepared: Prepared) -> str:
    """Return how long a training is; a stream has steps alone."""
    plan, task = prepared.plan, prepared.task
    if is_stream(task.train):
        return plural(round(plan.share * task.total_steps), "step")
    return f"{plan.epochs:.3g} epoch{_s(plan.epochs)}"


def _studies(prepared: Prepared) -> str:
    plan, growth = prepared.plan, prepared.growth
    each = "each holds another fold out" if plan.folds else "each tunes anew"
    number = f"{plan.studies}, {each}" if plan.studies > 1 else "1"
    if growth.is_settled is not None:
        return f"{number}; more until it is settled, at most {growth.looks[-1]}"
    return f"{number}; more if time is left" if growth.studies > plan.studies else number


def _tuning(plan: Plan) -> str:
    names = dict.fromkeys(name for arm in plan.arms.values() for name in arm.space)
    seeds = f", on {plan.instances} seeds" if plan.instances > 1 else ""
    return f"{plural(plan.trials, 'trial')} each{seeds}: {', '.join(names)}" if names else "nothing to tune"


def _cost(prepared: Prepared) -> str:
    plan, each = prepared.plan, prepared.training_seconds
    fast, slow = (f"{of(each.values()):.2g}" for of in (min, max))
    span = fast if fast == slow else f"{fast} to {slow}"
    most = "at most " if plan.instances > 1 else ""
    done = f"; {len(prepared.done)} are done" if prepared.done else ""
    limit = f", at most {duration(plan.budget_seconds)} in all" if plan.budget_seconds else ""
    return (
        f"{most}{prepared.trainings} trainings{done}: about {duration(prepared.seconds)} with "
        f"{plan.workers or 'no'} worker{_s(plan.workers)}{limit}; "
        f"one takes {span} s"
        + (f" ({max(each, key=each.__getitem__)})" if fast != slow else "")
        + _memory(prepared)
    )


def _memory(prepared: Prepared) -> str:
    largest = max(prepared.cost.memory_bytes.values(), default=0)
    return f" and at most {size(largest)} of memory" if largest else ""


def _s(count: float) -> str:
    return "" if count == 1 else "s"


class TimeLeft(ProgressColumn):
    """The time that the schedule expects the rest to take."""

    def __init__(self, schedule: Schedule):
        super().__init__()
        self.schedule = schedule

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        return Text(f"{duration(self.schedule.seconds_left())} left", style="cyan")


def watched(trials: Iterator[Trial], schedule: Schedule, total: int, console: Console) -> Iterator[Trial]:
    """Yield the trials while a bar shows how many are done and how long the rest will take."""
    columns = TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeLeft(schedule)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("starting", total=total, completed=len(schedule.done))
        for trial in trials:
            total = max(total, len(schedule.done) + schedule.running)
            stage = "tuning" if trial.spec.stage == "tune" else "verdict"
            bar.update(shown, advance=1, total=total, description=stage)
            yield trial
