"""Reports of a day: drift, experiments, and the index page that links everything."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import date
from typing import Any

import pandas as pd

from core import duck
from core.alerts import send_alert
from core.duck import identifier, quoted
from core.errors import NotReadyError
from core.files import read_json, write_json
from core.hours import Hour, day_hours, hour_range
from core.pages import write_page
from core.settings import Settings
from events.store import EventStore

log = logging.getLogger("pipeline.reports")

REFERENCE_DAYS = 7
EXAMPLE_CLOCKS = 2
INDEX = """
<p class="soft">Source <strong>{{ source }}</strong>. Everything here is written by the daily and hourly DAGs.</p>
{% for title, rows in groups %}<section><h2>{{ title }}</h2>{% if rows %}<ul>
{% for text, link, note in rows %}<li><a href="{{ link }}">{{ text }}</a> <span class="soft">{{ note }}</span></li>{% endfor %}</ul>
{% else %}<p class="soft">Nothing yet.</p>{% endif %}</section>{% endfor %}
"""


def report_drift(settings: Settings, day: date) -> dict[str, Any]:
    """Evidently's drift report of a day: features, labels and the champion's predictions.

    The reference is the last week that the champion was trained on, or, without a champion, the week before
    the day. More drift than the policy allows raises an alert, and the gate asks a person.

    Raises:
        NotReadyError: too few events on either side.
    """
    from evaluation.drift import drift_report
    from evaluation.gate import load_policy
    from pipeline.promotion import own_policy, registry

    store = EventStore(settings.events_dir)
    champion = registry(settings).get("champion")
    variant = champion.tags["variant"] if champion else settings.baseline_variant
    end = day_hours(day)[0]
    if champion:
        end = min(end, Hour.parse(champion.tags["hour"]) + 1)
    current = _frame(settings, store, day_hours(day), variant)
    before = _frame(settings, store, list(hour_range(end - 24 * REFERENCE_DAYS, end)), variant)
    folder = settings.reports_dir / "drift"
    found = drift_report(
        str(day), current, before, categorical=[*store.facets, "finish"], numerical=_numbers(current, before),
        html=folder / f"{day}.html", hour="local_hour", seed=settings.seed,
    )  # fmt: skip
    write_json(folder / f"{day}.json", asdict(found))
    log.info(
        "drift of %s: %d of %d columns (%s)", day, len(found.drifted), found.columns, ", ".join(found.drifted) or "none"
    )
    limit = load_policy(own_policy(settings)).max_drift_share
    if found.share > limit:
        send_alert(settings, f"{found.share:.0%} of the columns drifted on {day}", columns=found.drifted, limit=limit)
    return asdict(found)


def _frame(settings: Settings, store: EventStore, hours: list[Hour], variant: str) -> pd.DataFrame:
    """Events of hours with the prediction that the variant made of them before it trained on them."""
    from training.trainer import prediction_file

    files = [store.partition(h) / "events.parquet" for h in hours if store.has(h) and store.manifest(h).rows]
    if not files:
        raise NotReadyError(f"no events from {hours[0]} to {hours[-1]}")
    scored = [p for h in hours if (p := prediction_file(settings, variant, h)).exists()]
    columns = ", ".join(f"e.{identifier(f)}" for f in store.facets)
    names, predictions = ("[" + ", ".join(quoted(str(f)) for f in group) + "]" for group in (files, scored))
    source = f"read_parquet({predictions})" if scored else "(SELECT '' AS event_id, 0.0 AS score WHERE false)"
    with duck.connection(settings) as con:
        return con.sql(
            f"""SELECT {columns}, CAST(e.finish AS VARCHAR) AS finish, e.played_seconds, hour(e.local_time) AS local_hour,
            p.score AS prediction FROM read_parquet({names}) e LEFT JOIN {source} p USING (event_id)
            ORDER BY e.timestamp, e.event_id"""
        ).df()


def _numbers(*sides: pd.DataFrame) -> list[str]:
    columns = ("played_seconds", "local_hour", "prediction")
    return [c for c in columns if all(side[c].notna().any() for side in sides)]


def report_experiments(settings: Settings, until: Hour) -> list[dict[str, Any]]:
    """Report every experiment of the workspace as of an hour; a log without experiments gets a page that says so."""
    from ab_analysis.experiment import find_experiments
    from ab_analysis.report import write_no_experiment, write_report

    found = []
    for experiment in find_experiments(settings.experiments_dir):
        try:
            analysis, path = write_report(settings, experiment, until)
        except NotReadyError as error:
            log.warning("%s: %s", experiment.name, error)
            continue
        found.append({"analysis": analysis.as_json(), "report": str(path)})
        log.info("experiment %s: %s", experiment.name, path)
    if not found:
        log.info("no experiment in this log: %s", write_no_experiment(settings))
    return found


def report_clocks(settings: Settings) -> list[str]:
    """Draw the clocks of everybody and of the most active users; ``python -m feature_repo page`` draws any other."""
    from feature_repo.page import write_clock_page
    from feature_repo.retrieval import ClockFeatures

    features = ClockFeatures(settings, EventStore(settings.events_dir))
    return [str(write_clock_page(features, user)) for user in (None, *features.most_active(EXAMPLE_CLOCKS))]


def write_index(settings: Settings) -> str:
    """The page that links every report."""
    root = settings.reports_dir
    groups = []
    if (root / "model.html").exists():
        groups.append(("Model", [("champion, variants, moves, drift", "model.html", "")]))
    for title, pattern in (("Experiments", "ab/*/*.html"), ("Experiments", "ab/*.html"), ("Promotion gate", "gate/*.html"),
                           ("Data drift", "drift/*.html"), ("Interest clocks", "clocks/*.html")):  # fmt: skip
        rows = []
        for path in sorted(root.glob(pattern), reverse=True)[:60]:
            data = path.with_suffix(".json")
            content = read_json(data) if data.exists() else {}
            note = content.get("reason") or (
                f"{len(content['drifted'])} columns drifted" if "drifted" in content else ""
            )
            name = path.stem if path.parent.parent == root else f"{path.parent.name} as of {path.stem}"
            rows.append((name, str(path.relative_to(root)), note))
        if rows or pattern != "ab/*.html":
            groups.append((title, rows))
    if any(title == "Experiments" and rows for title, rows in groups):
        groups = [g for g in groups if g[0] != "Experiments" or g[1]]
    write_page(root / "index.html", "Interest Clock reports", INDEX, source=settings.source, groups=groups)
    return str(root / "index.html")


def variant_metrics(settings: Settings, start: Hour, end: Hour) -> dict[str, Any]:
    """variant → metrics with intervals on its progressive predictions of hours [start, end), each made before training."""
    from evaluation.metrics import with_intervals
    from training.trainer import as_predictions, read_predictions

    found = {}
    for variant in settings.variants:
        table = read_predictions(settings, variant, start, end)
        if table.num_rows:
            found[variant] = with_intervals(as_predictions(table))
    return found
