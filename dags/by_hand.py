"""What a person starts: roll the champion back, train again after corrected hours, build the history."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param

from core.documents import JsonObject
from core.errors import ConfigError
from core.hours import Hour, hour_range, parse_day
from core.settings import load_settings
from dags.common import DEFAULTS, optional_param, step
from dags.links import link_page, page_step

MOST_TASKS = 1000
"""Airflow maps a task to no more than 1,024 (``core.max_map_length``)."""
BY_HAND: dict[str, Any] = {
    "schedule": None,
    "catchup": False,
    "max_active_runs": 1,
    "default_args": {**DEFAULTS, "retries": 0},
}


def range_params(unit: str, default: str, pattern: str, example: str) -> dict[str, Param]:
    """Two fields of a trigger form, ``first`` and ``last``, for a range of hours or days."""
    return {
        name: Param(
            default,
            type="string",
            pattern=pattern,
            title=f"{name.capitalize()} {unit} (UTC)",
            description=f"Form: {example}.",
        )
        for name in ("first", "last")
    }


def hours_between(first_key: str, last_key: str) -> list[Hour]:
    """Hours of a range from a trigger form, the last included.

    Raises:
        ConfigError: a key is not an hour, the last lies before the first, or there are more than a run can start.
    """
    first, last = Hour.parse(first_key), Hour.parse(last_key)
    if last < first:
        raise ConfigError(f"the last hour {last} lies before the first, {first}")
    hours = list(hour_range(first, last + 1))
    if len(hours) > MOST_TASKS:
        raise ConfigError(
            f"{first} to {last} are {len(hours):,} hours; at most {MOST_TASKS:,} at once: trigger it in parts"
        )
    return hours


with DAG(
    "rollback_champion",
    params={
        "reason": Param("", type="string", minLength=5, title="Reason", description="Why; kept in the audit trail."),
        "version": optional_param("Version", r"^\d*$", "Version to go back to. Empty: the champion's predecessor."),
    },
    tags=["by hand", "promotion"],
    doc_md="""
### Roll the champion back
Points the `champion` alias at its predecessor, or at the version you name, and records who it was and why.
""",
    **BY_HAND,
):

    @step()
    def rollback(params: JsonObject | None = None) -> JsonObject:
        from pipeline.promotion import rollback as roll

        assert params is not None
        return asdict(roll(load_settings(), params["reason"], params["version"] or None))

    rollback()

with DAG(
    "replay_training",
    params={
        "since": Param(
            "2026-01-01T00",
            type="string",
            pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}$",
            title="Since (UTC hour)",
            description="First hour to train again, for example the earliest corrected one.",
        )
    },
    tags=["by hand"],
    doc_md="""
### Train again from an hour on
After late events or a corrected log: drops every variant's states since that hour and trains the hours again, in
order, from the last state before it. `clock stale` lists the hours whose events changed.
""",
    **BY_HAND,
):

    @step()
    def train_again(params: JsonObject | None = None) -> list[JsonObject]:
        from pipeline.training import replay

        assert params is not None
        return [trained.as_json() for trained in replay(load_settings(), Hour.parse(params["since"]))]

    train_again()

with DAG(
    "forget_user",
    params={
        "digest": Param(
            "",
            type="string",
            pattern=r"^[0-9a-f]{64}$",
            title="Digest of the user's id",
            description="Printed by: clock forget --digest USER. Airflow keeps what is typed here, so not the id.",
        )
    },
    tags=["by hand"],
    doc_md="""
### Forget a person
Removes everything of a user from every store: events, features, samples, requests, exposures, their rows in models. The
result says what was removed. Later inputs and restored backups do not bring the person back. Interrupted, run it again.
The clocks are computed again from the events, which takes as long as a rebuild.
""",
    **BY_HAND,
):

    @step()
    def remove(params: JsonObject | None = None) -> JsonObject:
        from pipeline.forgetting import forget_digest

        assert params is not None
        return forget_digest(load_settings(), params["digest"]).as_json()

    remove()

with DAG(
    "build_history",
    params={
        "until": Param(
            "2026-01-01T00",
            type="string",
            pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}$",
            title="Until (UTC hour)",
            description="The first hour that is left to the hourly DAGs.",
        )
    },
    tags=["by hand"],
    doc_md="""
### Build the history in bulk
For a new source: ingests the log up to an hour, computes all clocks, trains every variant on it, and offers the
first champion and candidate. Continues where it was interrupted.
""",
    **BY_HAND,
):

    @step()
    def build(params: JsonObject | None = None) -> JsonObject:
        from pipeline.history import build_history

        assert params is not None
        return build_history(load_settings(), Hour.parse(params["until"])).as_json()

    build()

with DAG(
    "backfill_hours",
    params=range_params("hour", "2026-01-01T00", r"^\d{4}-\d{2}-\d{2}T\d{2}$", "2026-11-23T10"),
    tags=["by hand"],
    doc_md="""
### Run a range of hours
Starts a run of `ingest_hour` for every hour from the first to the last; clocks, training, gate and the day's report
follow each as they do every hour. Hours that are done already stay as they are. A run of this DAG is green as soon as
all hours are started: how far they are is on the page of `promote_ranker`.
""",
    **BY_HAND,
):

    @step()
    def list_hours(params: JsonObject | None = None) -> list[dict[str, str]]:
        assert params is not None
        return [{"hour": hour.key} for hour in hours_between(params["first"], params["last"])]

    TriggerDagRunOperator.partial(
        task_id="start_hour", trigger_dag_id="ingest_hour", max_active_tis_per_dagrun=1,
        map_index_template="{{ task.conf['hour'] }}",
    ).expand(conf=list_hours())  # fmt: skip

with DAG(
    "report_experiments",
    params={
        "experiment": optional_param(
            "Experiment", r"^[a-z0-9_-]*$", "Name of one experiment. Empty: all that ran on those days."
        ),
        **range_params("day", "2026-01-01", r"^\d{4}-\d{2}-\d{2}$", "2026-11-23"),
    },
    tags=["by hand", "daily"],
    doc_md="""
### Report experiments as of past days
Writes the reports as they would have been at the end of each day, from the events and exposures up to then; a day that
was reported before gets the same page again. A mapped task for each experiment and day.
""",
    **BY_HAND,
):

    @step()
    def list_reports(params: JsonObject | None = None) -> list[dict[str, str]]:
        from pipeline.reports import past_reports

        assert params is not None
        days = parse_day(params["first"]), parse_day(params["last"])
        reports = past_reports(load_settings(), params["experiment"] or None, *days)
        if len(reports) > MOST_TASKS:
            raise ConfigError(
                f"{len(reports):,} reports are due on these days; at most {MOST_TASKS:,} at once: trigger it in parts"
            )
        return [due._asdict() for due in reports]

    @page_step(max_active_tis_per_dagrun=1)
    def report_as_of(which: dict[str, str]) -> JsonObject:
        from pipeline.reports import report_experiment

        summary = report_experiment(load_settings(), which["experiment"], Hour.parse(which["until"]))
        if summary.report:
            link_page(summary.report)
        return asdict(summary)

    @step(trigger_rule="all_done")
    def link_experiments() -> str:
        from pipeline.reports import list_experiments

        return list_experiments(load_settings())

    report_as_of.expand(which=list_reports()) >> link_experiments()
