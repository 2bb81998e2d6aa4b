"""The day: drift and experiment reports, rolled up from its 24 hours."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime

from airflow.sdk import (
    DAG,
    DayWindow,
    PartitionedAssetTimetable,
    RollupMapper,
    StartOfDayMapper,
    get_current_context,
)
from airflow.sdk.exceptions import AirflowSkipException

from core.documents import JsonObject
from core.errors import ConfigError, NotReadyError
from core.hours import Hour, day_hours, parse_day
from core.settings import Settings, load_settings
from dags.common import CHAMPION, DEFAULTS, HOUR_FORMAT, optional_param, step
from dags.links import link_page, page_step

with DAG(
    "report_day",
    schedule=PartitionedAssetTimetable(
        assets=CHAMPION,
        default_partition_mapper=RollupMapper(
            upstream_mapper=StartOfDayMapper(input_format=HOUR_FORMAT), window=DayWindow()
        ),
    ),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    params={
        "day": optional_param(
            "Day (UTC)",
            r"^(\d{4}-\d{2}-\d{2})?$",
            "Day to report. Form: 2026-11-23. Empty only where the run has a partition.",
        )
    },
    tags=["daily"],
    doc_md="""
### Reports of a day
When the day's 24 hours are through: Evidently's drift report of the day against the week before, what the champion's
ranker rests on (each input permuted, on samples that it had not been trained on), and a report of every running experiment
in the workspace's `experiments` folder, a mapped task each; a new file there needs no code. The task of an experiment whose
file is wrong fails, with an alert that names it; the others are reported.
The day after an experiment's end its final report is written. Trigger it with a day for an earlier or unfinished day.
Running it again writes the same pages.
""",
):

    def settings_and_day() -> tuple[Settings, date]:
        context = get_current_context()
        key = context["params"].get("day") or context["dag_run"].partition_key
        if not key:
            raise ConfigError("this run has no day: trigger it with a partition key or a day such as 2026-11-23")
        return load_settings(), parse_day(key)

    def settings_and_end() -> tuple[Settings, Hour]:
        settings, day = settings_and_day()
        return settings, day_hours(day)[-1] + 1

    @page_step()
    def report_drift() -> JsonObject:
        from pipeline.reports import report_drift as report

        settings, day = settings_and_day()
        drift = report(settings, day)
        link_page(settings.reports_dir / "drift" / f"{day}.html")
        return asdict(drift)

    @page_step()
    def report_importance() -> JsonObject:
        from pipeline.importance import report_importance as report

        settings, day = settings_and_day()
        link_page(settings.reports_dir / "model.html")
        try:
            return asdict(report(settings, day))
        except NotReadyError as error:  # on the first day nothing was trained before it
            raise AirflowSkipException(str(error)) from None

    @step()
    def find_experiments() -> list[str]:
        from pipeline.reports import due_experiments

        return due_experiments(*settings_and_end())

    @page_step(map_index_template="{{ name }}")
    def report_experiment(name: str) -> JsonObject:
        from pipeline.reports import report_experiment as report

        get_current_context()["name"] = name  # type: ignore[typeddict-unknown-key]
        settings, end = settings_and_end()
        summary = report(settings, name, end)
        if summary.report:
            link_page(summary.report)
        return asdict(summary)

    @page_step(trigger_rule="all_done")
    def link_reports() -> str:
        from ab_analysis.overview import write_overview
        from pages.index import write_index
        from pages.rankers import write_model_page
        from pipeline.reports import report_clocks

        settings = load_settings()
        write_overview(settings)
        write_model_page(settings)
        report_clocks(settings)
        index = write_index(settings)
        link_page(index)
        return index

    @step(trigger_rule="all_done")
    def retire_models() -> dict[str, int]:
        from pipeline.retention import retire_models as retire

        return retire(load_settings())

    @step(trigger_rule="all_done")
    def retire_state() -> dict[str, int]:
        from operations.airflow_records import retire_records
        from operations.processes import rotate_logs
        from pipeline.retention import retire_state as retire

        settings = load_settings()
        removed = {**retire(settings), "logs": retire_records(settings, datetime.now(UTC))}
        rotate_logs(settings)  # last: on a full disk there is no room for a copy before something was removed
        return removed

    (
        [report_drift(), report_importance(), report_experiment.expand(name=find_experiments())]
        >> link_reports()
        >> [retire_models(), retire_state()]
    )
