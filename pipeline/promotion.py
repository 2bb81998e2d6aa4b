"""Promotion steps: score candidate and champion on an hour, let the gate decide, move the alias."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core import duck
from core.duck import file_list
from core.errors import DataError, NotReadyError, PlatformError
from core.files import read_json, write_json, write_parquet
from core.hours import Hour, hour_range
from core.logs import log_context
from core.lookup import positions
from core.settings import Settings
from evaluation.gate import Scored, falls_behind, judge
from evaluation.gate_decision import GateDecision, ModelVersion
from evaluation.policy import load_policy
from evaluation.popularity import popularity
from events.store import EventStore
from model_registry.descriptions import GateNote, describe_version, short_reason
from model_registry.registry import CANDIDATE, CHALLENGER, CHAMPION, PREDECESSOR, Move, Registry
from model_registry.store import download_version, open_registry
from pipeline.training import TrainedVariant

if TYPE_CHECKING:
    from training.model import RankerModel

log = logging.getLogger("pipeline.promotion")

FIRST_CHAMPION_HOURS = 24 * 7
SAMPLES_DIGEST = b"samples"
"""Key of the metadata of kept predictions: which samples they are of."""


def model_version(models: Registry, alias: str) -> ModelVersion | None:
    """Who stands behind an alias; ``DataError`` where it is no version of the platform's."""
    version = models.get(alias)
    if version is None:
        return None
    lineage = models.lineage(version)
    return ModelVersion(str(version.version), lineage.variant, lineage.hour.key)


class VersionScores:
    """Predictions of registered versions on hours, each computed once and kept.

    They are kept with the digest of the samples that they are of: an hour whose samples were built again is scored again.
    """

    def __init__(self, settings: Settings) -> None:
        from training.samples import SampleStore

        self.settings = settings
        self.samples = SampleStore(settings, EventStore(settings.events_dir))
        self._models: dict[str, RankerModel] = {}

    def path(self, version: str, hour: Hour) -> Path:
        return self.settings.training_dir / "predictions" / f"version={version}" / f"{hour.key}.parquet"

    def read(self, version: str, hour: Hour) -> pa.Table:
        """Predictions of a version on an hour's samples, as ``prediction_table`` makes them."""
        self.samples.ensure(hour)
        path, digest = self.path(version, hour), self.samples.digest(hour)
        if path.exists():
            kept = pq.ParquetFile(path).read()
            if (kept.schema.metadata or {}).get(SAMPLES_DIGEST) == digest.encode():
                return kept
        table = self._scored(version, hour).replace_schema_metadata({SAMPLES_DIGEST: digest})
        write_parquet(path, table)
        return table

    def _scored(self, version: str, hour: Hour) -> pa.Table:
        from training.config import label_of
        from training.scoring import predict
        from training.trainer import prediction_table

        model, drawn = self._model(version), self.samples.read(hour)
        keys = drawn.keys(model.ranker)
        at = model.info.heads.index(label_of(model.info.heads))
        scores = predict(model.ranker, keys)[:, at] if len(keys) else np.empty(0)
        return prediction_table(drawn, keys, scores, at, model.ranker)

    def _model(self, version: str) -> RankerModel:
        from training.model import load_model

        if version not in self._models:
            self._models[version] = load_model(download_version(self.settings, version))
        return self._models[version]


class PopularityScores:
    """The popularity baseline: items by the events in the window before an hour, which are counted once.

    Args:
        settings: of the workspace.
        since: the window ends at its start.
    """

    def __init__(self, settings: Settings, since: Hour) -> None:
        self.settings, self.since = settings, since

    @cached_property
    def _popular_items(self) -> tuple[np.ndarray, np.ndarray]:
        """The items of the window, in order, and how popular each is."""
        settings, since = self.settings, self.since
        store = EventStore(settings.events_dir)
        files = store.event_files(hour_range(since - settings.window_hours, since))
        if not files:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        with duck.connection(settings) as con:
            counts = con.sql(
                f"""SELECT item_id, count(*) AS shown, count(*) FILTER (WHERE finish) AS finished
                FROM read_parquet({file_list(files)}) GROUP BY item_id ORDER BY item_id"""
            ).to_arrow_table()
        items, shown, finished = (counts[name].to_numpy() for name in counts.column_names)
        positives_only = store.source.negatives is not None
        return items, popularity(shown, finished, positives_only=positives_only).astype(np.float32)

    def of(self, predictions: pa.Table) -> pa.Table:
        """A table with ``item_id`` and ``score``, each item's popularity as its score; 0 for an item without events."""
        items, popular = self._popular_items
        scores = np.zeros(len(predictions), dtype=np.float32)
        at, known = positions(items, predictions["item_id"].to_numpy())
        scores[known] = popular[at[known]]
        return predictions.set_column(predictions.column_names.index("score"), "score", pa.array(scores))


@log_context(hour="hour")
def evaluate_candidate(settings: Settings, hour: Hour, policy_file: Path | None = None) -> GateDecision:
    """Compare the challenger with the champion on the hours since both were trained, up to ``hour``.

    The decision is written as JSON and as a page, and logged to the challenger's MLflow run. Nothing is moved. Of an hour that was
    decided before and is run again, when there is nothing to compare any more, the decision of then stays.

    Raises:
        NotReadyError: there is no challenger, or its artifacts cannot be read.
    """
    policy = load_policy(policy_file or own_policy(settings))
    models = open_registry(settings)
    challenger, champion = (
        model_version(models, CHALLENGER) or model_version(models, CANDIDATE),
        model_version(models, CHAMPION),
    )
    models.record_moves_by_hand(hour)
    if challenger is None:
        raise NotReadyError(f"{models.name} has no candidate; train the hour before (DAG train_ranker)")
    first = max(Hour.parse(c.trained_until) for c in (challenger, champion) if c) + 1
    predictions, scores, popular = {}, VersionScores(settings), PopularityScores(settings, first)
    for h in hour_range(first, min(hour, first + (policy.max_hours - 1)) + 1):
        ours = scores.read(challenger.version, h)
        reference = scores.read(champion.version, h) if champion else popular.of(ours)
        predictions[h] = Scored(ours, reference)
    decision = judge(policy, challenger, champion, predictions, drift_share=last_drift(settings, hour), now=hour)
    if not decision.hours and decision_page(settings, hour).exists():
        log.info("%s was decided before, and the decision stays: %s", hour, decision.reason)
        return decision
    page = write_decision(settings, hour, decision)
    version = models.client.get_model_version(models.name, challenger.version)
    if version.run_id:
        for path in (page, page.with_suffix(".json")):
            models.client.log_artifact(version.run_id, str(path), "gate")
    _note_decision(settings, models, hour, decision)
    _refresh_first_page(settings)
    log.info("%s: %s: %s", hour, decision.verdict, decision.reason)
    return decision


def _note_decision(settings: Settings, models: Registry, hour: Hour, decision: GateDecision) -> None:
    """Put a decision on the version that it is about: short tags, and the whole in the description."""
    tested = decision.candidate
    tags = {"gate_verdict": decision.verdict, "gate_reason": short_reason(decision.reason), "gate_hour": hour.key}
    for key, value in tags.items():
        models.client.set_model_version_tag(models.name, tested.version, key, value)
    note = GateNote(hour, decision.verdict, decision.reason)
    told = models.client.get_model_version(models.name, tested.version).tags
    text = describe_version(settings, told["variant"], told["hour"], note)
    models.client.update_model_version(models.name, tested.version, text)


def last_drift(settings: Settings, hour: Hour) -> float | None:
    """Share of drifted columns on the last day reported up to ``hour``, None where there is none."""
    reports = [p for p in sorted((settings.reports_dir / "drift").glob("*.json")) if p.stem <= str(hour.day)]
    return float(read_json(reports[-1])["share"]) if reports else None


def own_policy(settings: Settings) -> Path | None:
    """The workspace's own ``policy.yaml``, where it has one."""
    path = settings.workspace / "policy.yaml"
    return path if path.exists() else None


def probe(settings: Settings, version: str) -> None:
    """Load a version as MLflow's users do and score its input example; a version that cannot is never promoted.

    Raises:
        DataError: its artifacts are missing, damaged, or give no probabilities.
    """
    import mlflow

    models = open_registry(settings)
    try:
        model = mlflow.pyfunc.load_model(f"models:/{models.name}/{version}")
        scores = model.predict(model.input_example).to_numpy()
    except Exception as error:  # whatever it is, this version must not serve
        raise DataError(
            f"version {version} of {models.name} cannot be promoted, it does not load and score: {error}"
        ) from error
    if not np.isfinite(scores).all() or scores.min() < 0 or scores.max() > 1:
        raise DataError(
            f"version {version} of {models.name} cannot be promoted: its probe scores are not probabilities"
        )


@log_context(hour="hour")
def apply_decision(settings: Settings, hour: Hour, decision: GateDecision, *, approved: bool = False) -> list[Move]:
    """Move the aliases as the gate decided, and put the next challenger up.

    Candidate and challenger go forward only: an hour that is run again puts none of its own time in the place of a newer one.
    Where another champion serves than the gate compared with, as the last one was rolled back, a promotion that nobody approved is
    left to the next hour's decision.

    Args:
        settings: of the workspace.
        hour: hour of the decision.
        decision: of the gate.
        approved: a person approved a promotion that needs one.

    Returns:
        The moves made. Applying the same decision again makes none.

    Raises:
        DataError: the winner does not load and score, or a person approved it while somebody moved the champion.
    """
    models = open_registry(settings)
    moves: list[Move] = []
    challenger, champion = decision.candidate.version, decision.champion
    now = models.get(CHAMPION)
    serving, expected = str(now.version) if now else None, champion.version if champion else None
    promoted = decision.verdict == "promote" or (decision.verdict == "needs_person" and approved)
    if promoted and not approved and serving not in {challenger, expected}:
        log.warning("version %s is not promoted: the gate compared it with %s, and %s serves now; the next hour decides",
                    challenger, expected, serving)  # fmt: skip
        return moves
    if promoted and serving != challenger:
        probe(settings, challenger)
        reason = f"gate at {hour}: {decision.reason}"
        moves.append(models.move(CHAMPION, challenger, reason, hour=hour, expected=expected))
    latest = models.newest(settings.candidate_variant, hour.key)
    if latest and _is_newer(models, latest, CANDIDATE):
        moves.append(models.move(CANDIDATE, latest, f"newest at {hour}", hour=hour))
    if (
        latest
        and decision.verdict != "wait"
        and int(latest) > int(challenger)
        and _is_newer(models, latest, CHALLENGER)
    ):
        moves.append(models.move(CHALLENGER, latest, f"next challenger after {hour}", hour=hour))
    moves = [m for m in moves if m.previous != m.version]
    for move in moves:
        log.info("%s of %s is version %s (was %s)", move.alias, models.name, move.version, move.previous)
    if moves:
        _refresh_first_page(settings)
    return moves


def _is_newer(models: Registry, version: str, alias: str) -> bool:
    """Whether a version was trained as far as the one behind an alias, or further."""
    held, trained = models.get(alias), models.client.get_model_version(models.name, version).tags["hour"]
    return held is None or held.tags.get("hour", "") <= trained


def _refresh_first_page(settings: Settings) -> None:
    """Write the first page again, every hour: it says what is fresh and what needs a person. What it cannot read stops no promotion."""
    from pages.index import write_index

    try:
        write_index(settings)
    except PlatformError as error:
        log.warning("the first page stays as it was: %s", error)


@log_context(hour="hour")
def watch_champion(settings: Settings, hour: Hour) -> Move | None:
    """Roll a champion back that falls behind its predecessor, by the policy; returns the move, or None."""
    policy = load_policy(own_policy(settings))
    models = open_registry(settings)
    models.record_moves_by_hand(hour)
    current = models.get(CHAMPION)
    previous = current.tags.get(PREDECESSOR) if current else None
    if current is None or not previous:
        return None
    first = max(models.lineage(current).hour, hour - policy.rollback_hours) + 1
    version, scores = str(current.version), VersionScores(settings)
    scored = {h: Scored(scores.read(version, h), scores.read(previous, h)) for h in hour_range(first, hour + 1)}
    why = falls_behind(policy, scored)
    if why is None:
        return None
    log.warning("version %s goes back to %s: %s", version, previous, why)
    return models.rollback(f"automatic at {hour}: {why}", hour=hour)


def offer_first(settings: Settings, trained: Sequence[TrainedVariant]) -> None:
    """After the history: the baseline becomes champion if it beats popularity, the candidate becomes the challenger.

    Args:
        settings: of the workspace.
        trained: what each variant was trained to; the baseline's and the candidate's are registered versions.

    Raises:
        NotReadyError: the baseline's or the candidate's variant was not registered.
        DataError: the baseline beats popularity, but does not load and score.
    """
    models = open_registry(settings)
    by_variant = {each.variant: each for each in trained}
    if models.get(CHAMPION) is None:
        first = by_variant[settings.baseline_variant]
        decision = _first_champion(settings, first)
        write_decision(settings, first.hour, decision)
        _note_decision(settings, models, first.hour, decision)
        if decision.verdict == "promote":
            probe(settings, first.registered)
            models.move(CHAMPION, first.registered, decision.reason, hour=first.hour, expected=None)
        log.info("%s", decision.reason)
    for alias in (CANDIDATE, CHALLENGER):
        if models.get(alias) is None:
            candidate = by_variant[settings.candidate_variant]
            models.move(alias, candidate.registered, "trained on the history", hour=candidate.hour)


def _first_champion(settings: Settings, trained: TrainedVariant) -> GateDecision:
    """Judge the first champion on its progressive predictions of the last week: each was made before training on it."""
    from training.trainer import read_predictions

    end = trained.hour
    history = end.number - EventStore(settings.events_dir).first_hour().number
    since = end - min(FIRST_CHAMPION_HOURS, history // 2)
    policy = load_policy(own_policy(settings))
    everything = read_predictions(settings, trained.variant, since + 1, end + 1)
    reference = PopularityScores(settings, since + 1).of(everything) if everything.num_rows else everything
    whole = {end: Scored(everything, reference)}
    tested = ModelVersion(trained.registered, trained.variant, since.key)
    return judge(policy.model_copy(update={"min_hours": 1, "max_hours": 1}), tested, None, whole, now=since + 1)


def decision_page(settings: Settings, hour: Hour) -> Path:
    """Where the page of an hour's decision stands."""
    return settings.reports_dir / "gate" / f"{hour.key}.html"


def write_decision(settings: Settings, hour: Hour, decision: GateDecision) -> Path:
    """Write a decision as JSON and page; returns the page."""
    from pages.rankers import write_gate_page

    page = decision_page(settings, hour)
    write_json(page.with_suffix(".json"), decision.as_json())
    return write_gate_page(page, hour, decision)


def rollback(settings: Settings, reason: str, to: str | None = None) -> Move:
    """Take the champion back to its predecessor or a named version, because a person says so.

    Args:
        settings: of the workspace.
        reason: kept in the audit trail.
        to: version to go to; None for the predecessor.

    Raises:
        NotReadyError: there is no champion, or it has no predecessor.
        DataError: the target is the champion already, or does not exist.
    """
    hours = EventStore(settings.events_dir).hours()
    move = open_registry(settings).rollback(reason, to, hour=hours[-1] if hours else None, who="a person")
    log.info("champion rolled back from version %s to %s: %s", move.previous, move.version, reason)
    return move
