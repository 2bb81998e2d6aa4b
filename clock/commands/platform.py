"""``clock demo``, ``clock loop`` and the rest of the top level: the main job, the local platform, single steps by hand."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Annotated

import typer

from core import cli
from core.errors import ConfigError

RUN, MODELS, DATA = "Run the platform", "Models", "Data"

Fresh = Annotated[bool, typer.Option("--fresh", help="Start over: remove the workspace first.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show every log line instead of a line per stage.")]

app = cli.App(
    shared_source=True,
    help="The main job, the local platform, and single steps by hand.",
    epilog="Example: clock demo --hours 3",
)


@app.command(rich_help_panel=RUN, epilog="Example: clock demo --source my_app --data log/ --hours 6")
def demo(
    data: Annotated[
        str | None, typer.Option("--data", metavar="PATH", help="The log of a real source, a file or folder.")
    ] = None,
    hours: Annotated[int, typer.Option("--hours", metavar="N", help="Hours to run through Airflow.")] = 6,
    fresh: Fresh = False,
    verbose: Verbose = False,
    source: cli.SourceOption = None,
) -> None:
    """The main job, from a raw log to a promoted model and an A/B report."""
    from clock.demo import run_demo
    from clock.demo_summary import describe
    from core.progress import showing
    from core.settings import load_settings

    with showing(verbose=verbose):
        summary = run_demo(source or "simulator", data, hours, fresh=fresh)
    print(describe(summary, load_settings(source=summary.source)))


@app.command(rich_help_panel=RUN, epilog="Example: clock loop --arms none,matched_clock --days 7")
def loop(
    arms: Annotated[
        str, typer.Option("--arms", metavar="VARIANT,VARIANT", help="Rankers' variants, the control first.")
    ] = "hour_embedding,matched_clock",
    days: Annotated[int, typer.Option("--days", metavar="N", help="Days of the experiment.")] = 14,
    airflow_hours: Annotated[
        int,
        typer.Option(
            "--airflow-hours", metavar="N", help="Number of hours at the end whose steps run as Airflow's DAGs."
        ),
    ] = 0,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Rank in this process instead of over HTTP.")
    ] = False,
    no_truth: Annotated[
        bool, typer.Option("--no-truth", help="Do not simulate the worlds in which users are in other arms.")
    ] = False,
    fresh: Fresh = False,
    verbose: Verbose = False,
    source: cli.SourceOption = None,
) -> None:
    """The closed loop: users, serving, log, hourly steps, A/B report, and the true effect."""
    from closed_loop.loop import SOURCE, LoopPlan, run_loop
    from closed_loop.summary import describe
    from core.progress import showing

    plan = LoopPlan(
        arms=tuple(arms.split(",")), days=days, http=not in_process, airflow_hours=airflow_hours, truth=not no_truth,
    )  # fmt: skip
    with showing(verbose=verbose):
        summary, page = run_loop(plan, fresh=fresh, source=source or SOURCE)
    print(describe(summary, str(page)))


@app.command(rich_help_panel=RUN)
def up(source: cli.SourceOption = None) -> None:
    """Start Airflow, MLflow and the report pages, and leave them running."""
    from operations.local import up as start

    start(cli.settings_of(source))


@app.command(rich_help_panel=RUN)
def down(source: cli.SourceOption = None) -> None:
    """Stop what 'clock up' started."""
    from operations.local import down as stop

    stop(cli.settings_of(source))


@app.command(rich_help_panel=DATA, epilog="Example: clock setup my_app.yaml log/")
def setup(
    mapping: Annotated[str, typer.Argument(metavar="MAPPING.yaml", help="Or 'simulated': the simulated app.")],
    path: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH]...", help="Its files. Default: the mapping's own paths.")
    ] = None,
    source: cli.SourceOption = None,
) -> None:
    """Set where a source's log comes from. Mapping and log are checked before anything is written."""
    from core.settings import load_settings
    from events.mapping import load_mapping
    from pipeline.source import Source, log_end, save_app_source, save_source

    settings = cli.settings_of(source)
    if mapping == "simulated":
        if path:
            raise ConfigError("the simulated app writes its own log; give no files, or name the mapping of yours")
        save_app_source(settings)
        print(f"{settings.workspace} takes its log from the simulated app; next: clock history")
        return
    name = load_mapping(mapping)[0].source
    if source not in (None, name):
        raise ConfigError(f"{mapping} is the mapping of '{name}', not of '{source}'; leave --source out")
    settings = load_settings(source=name)
    log = Source(mapping, tuple(path or ()))
    end = log_end(settings, log)
    save_source(settings, log)
    last = f"up to {end - 1}" if end else "of which no file has arrived yet"
    print(f"{settings.workspace} takes its log from {mapping}, {last}; next: clock --source {name} history")


@app.command(rich_help_panel=DATA)
def history(
    until: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOUR]", help="The first hour that is left to the hourly steps. Default: the log's end."
        ),
    ] = None,
    source: cli.SourceOption = None,
) -> None:
    """Build everything before an hour in bulk."""
    from core.hours import Hour
    from pipeline.history import build_history
    from pipeline.source import end_of_log

    settings = cli.settings_of(source)
    end = Hour.parse(until) if until else end_of_log(settings)
    print(json.dumps(build_history(settings, end).as_json(), default=str))


@app.command(rich_help_panel=DATA)
def hour(
    hour: Annotated[str, typer.Argument(metavar="HOUR", help="For example 2026-11-23T10.")],
    source: cli.SourceOption = None,
) -> None:
    """Run one hour without Airflow: ingest, clocks, training, gate."""
    from core.hours import Hour
    from pipeline.hour import run_hour

    print(json.dumps(asdict(run_hour(cli.settings_of(source), Hour.parse(hour))), default=str))


@app.command(rich_help_panel=MODELS, epilog="Example: clock train matched_clock --until HOUR")
def train(
    variants: Annotated[list[str], typer.Argument(metavar="VARIANT…", help="Time modules of the rankers.")],
    until: Annotated[str, typer.Option("--until", metavar="HOUR", help="Last hour to train on.")],
    save_every: Annotated[int, typer.Option("--save-every", metavar="HOURS", help="Hours between checkpoints.")] = 24,
    no_model: Annotated[bool, typer.Option("--no-model", help="Log no model to MLflow.")] = False,
    source: cli.SourceOption = None,
) -> None:
    """Train variants up to an hour; in several processes with CLOCK_TRAIN_PROCESSES, or with torchrun on several machines."""
    from core.hours import Hour
    from pipeline.training import train_variants
    from training.config import check_variant
    from training.group import process_rank

    for variant in variants:
        check_variant(variant)
    if save_every < 1:
        raise ConfigError(f"--save-every {save_every}: at least 1 hour")
    last = Hour.parse(until)
    trained = train_variants(cli.settings_of(source), variants, last, save_every=save_every, log_model=not no_model)
    if process_rank() == 0:
        print(json.dumps([each.as_json() for each in trained]))


@app.command(rich_help_panel="Operate", epilog="Example: clock forget u17 u2034")
def forget(
    user: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[USER]...", help="Ids as they stand in the log. None: go on with an interrupted removal."
        ),
    ] = None,
    digest: Annotated[
        bool, typer.Option("--digest", help="Only print the digests of the ids, for the form of the DAG forget_user.")
    ] = False,
    source: cli.SourceOption = None,
) -> None:
    """Remove people from every store, for good, and report what was removed."""
    from pipeline.forgetting import digest_of
    from pipeline.forgetting import forget as forget_people

    settings = cli.settings_of(source)
    if digest:
        if not user or not all(key.strip() for key in user):
            raise ConfigError("--digest needs the ids whose digests are asked for, none of them empty")
        print("\n".join(digest_of(settings, key) for key in user))
        return
    print(json.dumps(forget_people(settings, user or []).as_json(), indent=1))


@app.command(rich_help_panel=MODELS)
def stale(source: cli.SourceOption = None) -> None:
    """List hours whose events changed after they were trained on."""
    from pipeline.training import stale_hours

    print(json.dumps({"stale": [hour.key for hour in stale_hours(cli.settings_of(source))]}))


@app.command(rich_help_panel=MODELS)
def rollback(
    reason: Annotated[str, typer.Argument(metavar="REASON", help="Why, for the record.")],
    version: Annotated[
        str | None, typer.Option("--version", metavar="VERSION", help="Default: the champion's predecessor.")
    ] = None,
    source: cli.SourceOption = None,
) -> None:
    """Roll the champion back to its predecessor or to a version."""
    from pipeline.promotion import rollback as roll_back

    if version is not None and not re.fullmatch(r"[1-9]\d{0,8}", version):
        raise ConfigError(f"--version {version}: give the number of a registered version, for example 3")
    print(json.dumps(asdict(roll_back(cli.settings_of(source), reason, version))))
