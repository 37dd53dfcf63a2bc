"""The command line: parses and calls."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fallline.core.errors import FalllineError

if TYPE_CHECKING:
    from fallline.compare.request import Request
    from fallline.studies import Study
    from fallline.studies.running import Wish

#: The exit code of a program that Ctrl-C ended: 128 and the signal's number.
INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compare optimizers honestly on your own model.",
)


def main() -> None:
    """Run the command; an expected error is one line and exit code 2."""
    try:
        app()
    except FalllineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


TaskName = Annotated[str, typer.Argument(help="A built-in task, or my_file.py:make_task.")]
Trials = Annotated[int | None, typer.Option(help="Tuning trials of each optimizer in a study (8).")]
Seeds = Annotated[int | None, typer.Option(help="Fresh seeds for each tuned optimizer in a study (3).")]
Studies = Annotated[int | None, typer.Option(help="How often to tune and judge anew (3).")]
Budget = Annotated[str | None, typer.Option(help="Wall-clock limit: 60s, 10min, 1h.")]
Workers = Annotated[int | None, typer.Option(help="Worker processes; 0: none (number of cores).")]
Out = Annotated[Path | None, typer.Option(help="Folder of the results (runs/TASK-TIME).")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the comparison in --out.")]
Seed = Annotated[int | None, typer.Option(help="Where all seeds are derived from (0).")]
Space = Annotated[Path | None, typer.Option(help="Search spaces of your own: a TOML or Python file.")]
Sampler = Annotated[str | None, typer.Option(help="sobol, halton, random, tpe, gp or cmaes (sobol).")]
Pruner = Annotated[str | None, typer.Option(help="none, median, asha, hyperband or wilcoxon (none).")]
Instances = Annotated[
    int | None, typer.Option(help="Seeds that --pruner wilcoxon trains each configuration on (5).")
]
Executor = Annotated[str | None, typer.Option(help="processes, stacked, serial or ray (processes).")]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster, such as auto.")]
Storage = Annotated[str | None, typer.Option(help="Also write to this Optuna storage (for its dashboard).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, and stop.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


@app.command()
def compare(
    task: TaskName,
    optimizers: Annotated[
        str | None,
        typer.Option(help="Names, separated by commas, classes: torch.optim.AdamW, or all (classic)."),
    ] = None,
    trials: Trials = None,
    seeds: Seeds = None,
    studies: Studies = None,
    budget: Budget = None,
    workers: Workers = None,
    out: Out = None,
    resume: Resume = False,
    seed: Seed = None,
    space: Space = None,
    scientific: Annotated[
        list[str] | None, typer.Option(help="Compare levels: activation=relu,tanh (repeatable).")
    ] = None,
    sampler: Sampler = None,
    pruner: Pruner = None,
    instances: Instances = None,
    until_settled: Annotated[
        bool, typer.Option("--until-settled", help="Go on until nobody is left open beside the best.")
    ] = False,
    executor: Executor = None,
    address: Address = None,
    storage: Storage = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tune every optimizer on TASK with equal effort, and rank them on fresh seeds."""
    from fallline.compare.request import Request

    request = Request(
        task, optimizers, trials, seeds, studies, budget, workers, out, resume, seed, space,
        _levels(scientific or []), sampler, pruner, until_settled, executor, address, storage, instances,
    )  # fmt: skip
    _run(request, dry_run, yes, quiet, as_json)


def _levels(given: list[str]) -> dict[str, list[Any]]:
    from fallline.compare.search.space_file import read_levels

    levels = list(map(read_levels, given))
    names = [name for name, _ in levels]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FalllineError(f"--scientific names {twice} twice; give all its levels at once: {twice}=1,2,3")
    return dict(levels)


@app.command()
def tune(
    task: TaskName,
    optimizer: Annotated[str, typer.Option(help="A name from `fallline list`, or a class.")],
    trials: Trials = 24,
    seeds: Seeds = 5,
    studies: Studies = 1,
    budget: Budget = None,
    workers: Workers = None,
    out: Out = None,
    resume: Resume = False,
    seed: Seed = None,
    space: Space = None,
    sampler: Sampler = None,
    pruner: Pruner = None,
    instances: Instances = None,
    executor: Executor = None,
    address: Address = None,
    storage: Storage = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tune one OPTIMIZER on TASK, and judge its settings on fresh seeds beside its defaults."""
    from fallline.compare.request import Request

    request = Request(
        task, optimizer, trials, seeds, studies, budget, workers, out, resume, seed, space,
        sampler=sampler, pruner=pruner, executor=executor, address=address, storage=storage,
        instances=instances, beside_defaults=True,
    )  # fmt: skip
    _run(request, dry_run, yes, quiet, as_json)


def _run(request: "Request", dry_run: bool, yes: bool, quiet: bool, as_json: bool) -> None:
    """Plan, ask, run and print the result; the exit code says whether there is one."""
    from rich.console import Console

    from fallline.compare.judgement.document import document, plan_document
    from fallline.compare.planning import prepare
    from fallline.compare.progress import print_plan
    from fallline.compare.run import run_shown

    messages = Console(stderr=True, quiet=quiet)
    with redirect_stdout(sys.stderr):  # what a task prints is not part of the result
        prepared = prepare(request)
        agreed = (lambda: True) if yes or quiet else _wanted
        comparison = None if dry_run else run_shown(prepared, messages, agreed)
    if dry_run:
        _print_json(plan_document(prepared)) if as_json else print_plan(prepared, Console())
    if comparison is None:
        return
    if as_json:
        _print_json({**document(comparison), "folder": str(prepared.store.folder)})
    else:
        from fallline.report.terminal import print_report

        print_report(comparison, Console())
    if comparison.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not any(trial.status == "ok" for trial in comparison.trials):
        raise typer.Exit(1)


def _wanted() -> bool:
    """Ask whether to start, if there is somebody to answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    return typer.confirm("Start?", default=True, err=True)


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, allow_nan=False))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a comparison, finished or not.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
) -> None:
    """Print the result of RUN again, and write its report.html anew, from the recorded trials."""
    from rich.console import Console

    from fallline.compare.judgement.document import document
    from fallline.compare.run import read, write_report
    from fallline.report.terminal import print_report

    comparison = read(run)
    write_report(comparison, run)
    if as_json:
        _print_json({**document(comparison), "folder": str(run)})
    else:
        print_report(comparison, Console())


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a comparison, finished or not.")],
    form: Annotated[
        str, typer.Option("--format", help="csv, json, parquet, tensorboard, mlflow or wandb.")
    ] = "csv",
    out: Annotated[str | None, typer.Option(help="Where to write (RUN/trials.csv and the like).")] = None,
) -> None:
    """Write the trials of RUN for other programs: one table, or a run each in an experiment tracker."""
    from fallline.compare.exports.export import default_path
    from fallline.compare.exports.export import export as write
    from fallline.compare.run import read

    print(write(read(run), form, out or default_path(run, form)))


@app.command()
def gate(
    run: Annotated[Path, typer.Argument(help="The folder of a comparison with final runs of both.")],
    baseline: Annotated[str, typer.Option(help="The optimizer that is good enough.")],
    candidate: Annotated[str, typer.Option(help="The optimizer that may replace it.")],
    margin: Annotated[str, typer.Option(help="How much higher its loss may be: 1% or 0.01.")] = "1%",
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as one JSON document.")] = False,
) -> None:
    """Say by the exit code whether CANDIDATE is as good as BASELINE: 0 yes, 1 no or cannot be told."""
    from fallline.compare.judgement.gate import gate as pass_or_stop
    from fallline.compare.judgement.gate import read_margin
    from fallline.compare.run import read

    answer = pass_or_stop(read(run), baseline, candidate, read_margin(margin))
    _print_json(answer.to_json()) if as_json else print(answer.text)
    raise typer.Exit(0 if answer.passed else 1)


@app.command()
def recommend(
    task: Annotated[str, typer.Argument(help="A built-in task, or my_file.py:make_task.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the advice as one JSON document.")] = False,
) -> None:
    """Say what to try first on TASK, from its model alone: a prior with its reasons; nothing is trained."""
    from fallline.compare.advice.recommend import recommend as advise
    from fallline.compare.advice.recommend import text
    from fallline.tasks.load import load

    with redirect_stdout(sys.stderr):
        recommendation = advise(load(task), task)
    _print_json(recommendation.to_json()) if as_json else print(text(recommendation))


@app.command()
def lr_range(
    task: Annotated[str, typer.Argument(help="A built-in task, or my_file.py:make_task.")],
    optimizer: Annotated[str, typer.Option(help="A name from `fallline list`, or a class.")],
    seeds: Annotated[int, typer.Option(help="How many range tests.")] = 8,
    steps: Annotated[int, typer.Option(help="Steps of each, at growing learning rates.")] = 100,
    run: Annotated[Path | None, typer.Option(help="A comparison that has tuned the optimizer.")] = None,
    sweep: Annotated[int, typer.Option(help="Without --run: whole trainings to tune it; 0: none.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Where to write the figure, as HTML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
) -> None:
    """Test at which learning rates the loss falls and diverges, and hold that against whole trainings."""
    from fallline.compare.advice.lr_range import lr_range as measure
    from fallline.compare.advice.lr_range import recorded_or_swept
    from fallline.compare.advice.lr_range_view import text, write_figure
    from fallline.tasks.load import load

    with redirect_stdout(sys.stderr):
        tuned = recorded_or_swept(task, optimizer, run, sweep)
        found = measure(load(task), optimizer, seeds, steps, tuned=tuned)
    if out is not None:
        write_figure(found, out)
    _print_json(found.to_json()) if as_json else print(text(found))


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(help="A study from `fallline list`, or my_study.py.")] = None,
    task: Annotated[str | None, typer.Option(help="A task of yours: my_file.py:make_task.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Make all studies, into one report.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, for a first impression.")] = False,
    budget: Annotated[str | None, typer.Option(help="Limit of each study: 60s, 10min, 1h.")] = None,
    workers: Workers = None,
    out: Out = None,
    resume: Resume = False,
    seed: Annotated[int, typer.Option(help="Where all seeds are derived from.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Answer a ready question by measuring: activations, batch-size, schedules, ... (`fallline list`)."""
    from fallline.compare.protocol.budget import seconds
    from fallline.studies import BUILT_IN, find
    from fallline.studies.running import Wish

    if (name is None) != every:
        raise FalllineError("name one study, or say --all; `fallline list` shows them")
    studies = [find(each) for each in (BUILT_IN if name is None else [name])]
    folder = _folder(out, resume, f"study-{(name and Path(name).stem) or 'all'}")
    wish = Wish(
        folder, quick, seed, workers, resume, task=task, budget=None if budget is None else seconds(budget)
    )
    _study(studies, wish, as_json)


def _folder(out: Path | None, resume: bool, name: str) -> Path:
    """Return where results go: a new folder unless one is given, which going on needs."""
    if resume and out is None:
        raise FalllineError("--resume needs the folder to go on in: add --out FOLDER")
    return out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _study(studies: "list[Study]", wish: "Wish", as_json: bool) -> None:
    from rich.console import Console

    from fallline.compare.progress import watched
    from fallline.report.findings import print_finding
    from fallline.studies.running import make_all

    messages = Console(stderr=True)
    with redirect_stdout(sys.stderr), _resumable(wish.out):
        findings = make_all(
            studies,
            wish,
            lambda trials, schedule, total: watched(trials, schedule, total, messages),
            lambda finding: print_finding(finding, messages if as_json else Console(file=sys.__stdout__)),
        )
    messages.print(f"{wish.out / 'report.html'}", style="dim", highlight=False)
    if as_json:
        _print_json({"findings": [finding.to_json() for finding in findings], "folder": str(wish.out)})


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Let Ctrl-C end what runs, and say how to go on with it."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; go on with --resume --out {folder}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def claims(
    only: Annotated[list[str] | None, typer.Option(help="Names of claims (repeatable, or a,b).")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the claims, and judge none.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, for a first impression.")] = False,
    workers: Workers = None,
    out: Out = None,
    resume: Resume = False,
    seed: Annotated[int, typer.Option(help="Where all seeds are derived from.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Judge by measurement what tutorials on optimizers repeat: supported, refuted, depends, not settled."""
    from fallline.claims.command import show_or_judge
    from fallline.studies.wishes import Wish

    wish = Wish(_folder(out, resume, "claims"), quick, seed, workers, resume)
    with redirect_stdout(sys.stderr), _resumable(wish.out):
        judged = show_or_judge(only or [], listed, wish, as_json)
    if as_json:
        _print_json(judged)


@app.command("list")
def list_() -> None:
    """List the optimizers, tasks and studies."""
    from rich.console import Console

    from fallline.describe import print_list

    print_list(Console())


@app.command()
def show(optimizer: Annotated[str, typer.Argument(help="A name from `fallline list`.")]) -> None:
    """Show an optimizer's formula, hyperparameters and references."""
    from rich.console import Console

    from fallline.core.registry import find
    from fallline.describe import print_entry

    print_entry(find(optimizer), Console())


@app.command()
def doctor() -> None:
    """Check the installation; exit code 1 if anything fails."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fallline.doctor import diagnose

    results = diagnose()
    table = Table.grid(padding=(0, 2))
    for name, passed, found in results:
        table.add_row("[green]ok[/green]" if passed else "[red]failed[/red]", name, escape(found))
    Console().print(table)
    if not all(passed for _, passed, _ in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
