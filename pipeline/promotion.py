"""Promotion steps: score candidate and champion on an hour, let the gate decide, move the alias."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import NotReadyError
from core.files import write_json, write_parquet
from core.hours import Hour, hour_range
from core.pages import write_page
from core.settings import Settings
from evaluation.gate import Contender, Decision, judge, load_policy
from evaluation.registry import CANDIDATE, CHAMPION, Move, Registry
from events.store import EventStore

log = logging.getLogger("pipeline.promotion")

FIRST_CHAMPION_HOURS = 24 * 7

TEMPLATE = """
<section class="banner {{ 'calm' if decision.verdict == 'promote' else '' }}"><p class="lead"><strong>{{ decision.verdict }}</strong>:
{{ decision.reason }}</p></section>
<section><h2>Checks</h2>{% if decision.checks %}<div class="scroll"><table><thead><tr><th>check</th><th>value</th><th>interval</th>
<th>limit</th><th></th></tr></thead><tbody>{% for c in decision.checks %}<tr><td>{{ c.name|words }}</td><td>{{ c.value|number }}</td>
<td>{% if c.interval %}{{ c.interval[0]|number }} to {{ c.interval[1]|number }}{% endif %}</td><td>{{ c.limit|number }}</td>
<td class="{{ 'good' if c.passed else 'bad' }}">{{ "passed" if c.passed else "failed" }}</td></tr>{% endfor %}</tbody></table></div>
{% else %}<p>No check was made yet.</p>{% endif %}</section>
<section><h2>Versions</h2><p>Candidate: {{ decision.candidate.variant }}, version {{ decision.candidate.version }}, trained until
{{ decision.candidate.trained_until }}.<br>Champion: {% if decision.champion %}{{ decision.champion.variant }}, version
{{ decision.champion.version }}, trained until {{ decision.champion.trained_until }}{% else %}none yet{% endif %}.</p>
<p class="soft">Hours compared: {{ decision.hours|join(", ") or "none" }}. Intervals are clustered by user.</p></section>
"""


def registry(settings: Settings) -> Registry:
    """The registered model of the source."""
    from training.tracking import model_name, open_mlflow

    return Registry(open_mlflow(settings), model_name(settings), settings.workspace / "registry" / "moves.jsonl")


def contender(models: Registry, alias: str) -> Contender | None:
    """Who stands behind an alias."""
    version = models.get(alias)
    if version is None:
        return None
    return Contender(str(version.version), version.tags["variant"], version.tags["hour"])


def score_version(settings: Settings, version: str, hour: Hour) -> pa.Table:
    """Predictions of a registered version on an hour's samples, computed once and kept."""
    path = settings.training_dir / "predictions" / f"version={version}" / f"{hour.key}.parquet"
    if path.exists():
        return pq.ParquetFile(path).read()
    from training.model import load_model
    from training.samples import SampleStore
    from training.tensors import hour_keys
    from training.tracking import download_version
    from training.trainer import LABEL, predict, prediction_table

    model = load_model(download_version(settings, version))
    drawn = SampleStore(settings, EventStore(settings.events_dir)).read(hour)
    info = model.info
    keys = hour_keys(drawn.samples, drawn.slots, drawn.profiles, info.facets, info.heads, info.top_k)
    at = info.heads.index(LABEL) if LABEL in info.heads else 0
    scores = predict(model.ranker, keys)[:, at] if len(keys) else keys.hours
    table = prediction_table(drawn, keys, scores, at)
    write_parquet(path, table)
    return table


def evaluate_candidate(settings: Settings, hour: Hour, policy_file: Path | None = None) -> Decision:
    """Compare the candidate with the champion on the hours since both were trained, up to ``hour``.

    The decision is written as JSON and as a page. Nothing is moved.

    Raises:
        NotReadyError: there is no candidate.
    """
    policy = load_policy(policy_file or _own_policy(settings))
    models = registry(settings)
    candidate, champion = contender(models, CANDIDATE), contender(models, CHAMPION)
    if candidate is None:
        raise NotReadyError(f"{models.name} has no candidate; train the hour before (DAG train_ranker)")
    first = max(Hour.parse(c.trained_until) for c in (candidate, champion) if c) + 1
    last = min(hour, first + (policy.max_hours - 1))
    predictions = {
        h: (
            score_version(settings, candidate.version, h),
            score_version(settings, champion.version, h) if champion else None,
        )
        for h in hour_range(first, last + 1)
    }
    decision = judge(policy, candidate, champion, predictions)
    write_decision(settings, hour, decision)
    log.info("%s: %s: %s", hour, decision.verdict, decision.reason)
    return decision


def _own_policy(settings: Settings) -> Path | None:
    """The workspace's own ``policy.yaml``, where it has one."""
    path = settings.workspace / "policy.yaml"
    return path if path.exists() else None


def write_decision(settings: Settings, hour: Hour, decision: Decision) -> Path:
    """Write a decision as JSON and page; returns the page."""
    folder = settings.reports_dir / "gate"
    write_json(folder / f"{hour.key}.json", decision.as_json())
    page = folder / f"{hour.key}.html"
    write_page(page, f"Gate at {hour} UTC", TEMPLATE, home="../index.html", decision=decision)
    return page


def apply_decision(settings: Settings, hour: Hour, decision: dict[str, Any], latest: str | None) -> list[Move]:
    """Move the aliases as the gate decided, and put the next candidate up.

    Args:
        settings: of the workspace.
        hour: hour of the decision.
        decision: JSON form of the decision.
        latest: version of the candidate's variant trained on ``hour``, the next candidate.

    Returns:
        The moves made. Applying the same decision again makes none.
    """
    models = registry(settings)
    moves: list[Move] = []
    candidate, champion = decision["candidate"]["version"], decision["champion"]
    now = models.get(CHAMPION)
    if decision["verdict"] == "promote" and (now is None or str(now.version) != candidate):
        seen = champion["version"] if champion else None
        moves.append(models.move(CHAMPION, candidate, f"gate at {hour}: {decision['reason']}", expected=seen))
    if latest and decision["verdict"] != "wait" and int(latest) > int(candidate):
        moves.append(models.move(CANDIDATE, latest, f"next candidate after {hour}"))
    for move in moves:
        log.info("%s of %s is version %s (was %s)", move.alias, models.name, move.version, move.previous)
    return moves


def offer_first(settings: Settings, trained: list[dict[str, Any]]) -> None:
    """After the history: the baseline becomes champion if it beats chance, the candidate stands up."""
    models = registry(settings)
    by_variant = {t["variant"]: t for t in trained}
    if models.get(CHAMPION) is None:
        first = by_variant[settings.baseline_variant]
        decision = _first_champion(settings, first)
        write_decision(settings, Hour.parse(first["hour"]), decision)
        if decision.verdict == "promote":
            models.move(CHAMPION, first["version"], decision.reason, expected=None)
        log.info("%s", decision.reason)
    if models.get(CANDIDATE) is None:
        models.move(CANDIDATE, by_variant[settings.candidate_variant]["version"], "trained on the history")


def _first_champion(settings: Settings, trained: dict[str, Any]) -> Decision:
    """Judge the first champion on its progressive predictions of the last week: each was made before training on it."""
    from training.trainer import read_predictions

    end = Hour.parse(trained["hour"])
    policy = load_policy(_own_policy(settings)).model_copy(update={"max_hours": FIRST_CHAMPION_HOURS})
    hours = {
        h: (table, None)
        for h in hour_range(end - FIRST_CHAMPION_HOURS + 1, end + 1)
        if (table := read_predictions(settings, trained["variant"], h, h + 1)).num_rows
    }
    tested = Contender(trained["version"], trained["variant"], (end - FIRST_CHAMPION_HOURS).key)
    return judge(policy, tested, None, dict(hours))


def rollback(settings: Settings, reason: str, to: str | None = None) -> Move:
    """Take the champion back to its predecessor or a named version."""
    move = registry(settings).rollback(reason, to)
    log.info("champion rolled back from version %s to %s: %s", move.previous, move.version, reason)
    return move


def latest_version(settings: Settings, hour: Hour) -> str | None:
    """Newest registered version of the candidate's variant trained up to ``hour``."""
    models = registry(settings)
    found = models.client.search_model_versions(
        f"name = '{models.name}' and tags.variant = '{settings.candidate_variant}'"
    )
    fitting = [v for v in found if v.tags["hour"] <= hour.key]
    return str(max(fitting, key=lambda v: (v.tags["hour"], int(v.version))).version) if fitting else None
