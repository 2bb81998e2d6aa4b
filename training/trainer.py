"""The hourly trainer: test first, then train, one pass in time order, exactly once."""

from __future__ import annotations

import heapq
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from core.errors import DataError, NotReadyError, is_interruption
from core.files import digest_json, write_parquet
from core.hours import Hour, hour_range
from core.settings import Settings
from evaluation.metrics import summary
from evaluation.prediction_table import as_predictions, joined, with_hour
from evaluation.predictions import ATTRIBUTE, CONTEXT, FACET
from events.store import EventStore
from training.ahead import start
from training.attributes import of_type
from training.batch import Batch, HourKeys
from training.config import RankerConfig, code_version, label_of, load_ranker_config
from training.device import training_device
from training.group import GroupLostError
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.samples import HourSamples, SampleStore
from training.scoring import predict
from training.session_loss import SessionSamples, session_loss
from training.state import StateStore, untrained_ranker
from training.state_info import StateInfo, lineage_digest, new_info
from training.tensors import LOG_EVENTS_SCALE, entity_rows, to_batch
from training.warm_start import TakeOver, shapes_of

log = logging.getLogger("training.trainer")

REMEDY = "lower embedding_rate or dense_rate in ranker.yaml; states from before it stay as they are"
"""What to do where training diverges."""
HEAVY_EVENTS = 100
"""Events in the clock's window from which a user counts as heavy."""


@dataclass(frozen=True)
class HourResult:
    """What one hour of test-then-train gave. ``metrics`` is empty for an hour without samples."""

    variant: str
    hour: Hour
    metrics: dict[str, float]
    seconds: float
    data: str


def prediction_file(settings: Settings, variant: str, hour: Hour) -> Path:
    """Progressive predictions of a variant on an hour, made before it trained on it."""
    return settings.training_dir / "predictions" / f"variant={variant}" / f"{hour.key}.parquet"


Report = Callable[[Sequence[HourResult], StateInfo], None]
"""What is told before each checkpoint: the hours since the last one, and the state to be saved."""


def train_together(
    trainers: Sequence[Trainer], until: Hour, *, save_every: int = 1, reports: Sequence[Report | None]
) -> list[StateInfo | Exception]:
    """Train several variants hour by hour in turn, so that an hour's samples are read and decoded once.

    Args:
        trainers: one for each variant, on one sample store. Each ends with the bits that it has alone.
        until: last hour to train.
        save_every: hours between checkpoints.
        reports: for each trainer, as ``Trainer.train`` takes it.

    Returns:
        For each trainer the state at ``until``, or the error that ended it; the others go on without it.
    """
    outcomes: list[StateInfo | Exception] = [NotReadyError("not trained")] * len(trainers)

    def turns(at: int) -> Iterator[Hour]:
        try:
            outcomes[at] = yield from trainers[at].steps(until, save_every=save_every, report=reports[at])
        except GroupLostError:
            raise
        except Exception as error:  # one variant's failure is not the others'
            if is_interruption(error):
                raise
            outcomes[at] = error

    order = sorted(
        range(len(trainers)), key=lambda at: trainers[at].states.lock_file
    )  # all hold their locks to the end
    for _ in heapq.merge(*map(turns, order)):  # whose next hour is the earliest has the next turn
        pass
    return outcomes


class Trainer:
    """Trains one variant of a source, hour by hour."""

    def __init__(
        self,
        settings: Settings,
        variant: str,
        samples: SampleStore | None = None,
        config: RankerConfig | None = None,
    ) -> None:
        self.settings = settings
        self.config = config or load_ranker_config(settings, variant)
        torch.set_num_threads(self.config.threads)
        self.device = training_device(settings.device, self.config.batch_size)
        self.samples = samples or SampleStore(settings, EventStore(settings.events_dir))
        self.states = StateStore(settings.training_dir / "states", variant)
        self.label = label_of(self.samples.heads)

    def train(
        self,
        until: Hour,
        *,
        start: Hour | None = None,
        save_every: int = 1,
        report: Report | None = None,
    ) -> StateInfo:
        """Train every hour after the last state up to and including ``until``.

        Args:
            until: last hour to train; an hour trained before is left as it is.
            start: first hour where there is no state yet; default the first hour with events.
            save_every: hours between checkpoints; a crash repeats at most that many, with equal results.
            report: called before each checkpoint with the results since the last one.

        Returns:
            Description of the state at ``until`` (or later, if a later one exists).

        Raises:
            NotReadyError: an hour in between has no events or clocks yet.
        """
        steps = self.steps(until, start=start, save_every=save_every, report=report)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                info: StateInfo = end.value
                return info

    def steps(
        self,
        until: Hour,
        *,
        start: Hour | None = None,
        save_every: int = 1,
        report: Report | None = None,
    ) -> Generator[Hour, None, StateInfo]:
        """``train`` in steps: yields each hour before it is trained, so that several variants can take turns."""
        with self._writing():
            head = self.states.head()
            if head is not None and head >= until:
                log.info(
                    "%s: a state as of %s is there already: nothing is trained, and ranker.yaml counts from the next hour on",
                    self.config.variant,
                    head,
                )
                return self.states.info(head)
            first = head + 1 if head is not None else start or self._first_hour()
            info, ranker, optimizer = self._resume(head) if head is not None else self._fresh()
            results: list[HourResult] = []
            for hour in hour_range(first, until + 1):
                yield hour
                torch.set_num_threads(self.config.threads)
                results.append(self._hour(hour, ranker, optimizer, followed=hour < until))
                if len(results) >= save_every or hour == until:
                    info = self._checkpoint(info, results, ranker, optimizer, report)
                    results = []
            return info

    def _writing(self) -> AbstractContextManager[None]:
        """One writer of the chain at a time."""
        return self.states.writing()

    def _resume(self, hour: Hour) -> tuple[StateInfo, Ranker, Optimizer]:
        """The state of an hour to train on; if the configuration has changed since, what of it fits."""
        before = self.states.info(hour)
        return self._load(hour) if before.ranker_config == self.config else self._warm_start(before)

    def _load(self, hour: Hour) -> tuple[StateInfo, Ranker, Optimizer]:
        return self.states.load(hour, self.device)

    def _warm_start(self, before: StateInfo) -> tuple[StateInfo, Ranker, Optimizer]:
        info, ranker, optimizer = self._fresh()
        tensors = self.states.tensors(Hour.parse(before.hour))
        take_over = TakeOver.of(before, info, shapes_of(tensors), ranker, ranker.tables)
        take_over.fill_tables(ranker.tables, tensors)
        take_over.fill(ranker, optimizer, tensors)
        log.info("%s: %s", self.config.variant, take_over.info.warm_start)
        return take_over.info, ranker, optimizer

    def _first_hour(self) -> Hour:
        return self.samples.events.require_hours()[0]

    def _first_info(self) -> StateInfo:
        samples = self.samples
        return new_info(self.config, samples.facets, samples.heads, samples.context, samples.attributes)

    def _fresh(self) -> tuple[StateInfo, Ranker, Optimizer]:
        info = self._first_info()
        ranker = untrained_ranker(info).to(self.device)
        return info, ranker, Optimizer(ranker)

    def _checkpoint(
        self,
        info: StateInfo,
        results: Sequence[HourResult],
        ranker: Ranker,
        optimizer: Optimizer,
        report: Report | None,
    ) -> StateInfo:
        """One link of the chain, whatever the number of hours: each hour's digest enters in turn."""
        parent, seen = info.digest if info.hour else info.parent, info.samples_seen
        data, config, code = "", digest_json(info.config), code_version()
        for result in results:
            parent, data = (lineage_digest(parent, data, config, code) if data else parent), result.data
            seen += int(result.metrics.get("samples", 0))
        following = StateInfo(
            variant=info.variant, hour=results[-1].hour.key, parent=parent, data=data, config=info.config, code=code,
            samples_seen=seen, facets=info.facets, heads=info.heads, context=info.context,
            attributes=info.attributes, warm_start=info.warm_start,
        )  # fmt: skip
        return self._commit(results, following, ranker, optimizer, report, since=info)

    def _commit(
        self,
        results: Sequence[HourResult],
        following: StateInfo,
        ranker: Ranker,
        optimizer: Optimizer,
        report: Report | None,
        *,
        since: StateInfo,
    ) -> StateInfo:
        """Report the hours, then write the state that they led to; returns its description as written."""
        if report:
            report(results, following)
        return self.states.save(following, ranker, optimizer, since=since)

    def _hour(self, hour: Hour, ranker: Ranker, optimizer: Optimizer, *, followed: bool) -> HourResult:
        """Test and train an hour; ``followed``: the next one is made ready meanwhile."""
        begun = time.perf_counter()
        drawn = self.samples.read(hour)
        metrics: dict[str, float] = {}
        if drawn.tables.samples.num_rows:
            keys = drawn.keys(ranker)
            with optimizer.scoring():
                scores = predict(ranker, keys)
            tested = start(self._test(drawn, keys, scores, ranker))
            if followed:
                self.samples.read_ahead(hour + 1, ranker)
            if not math.isfinite(fit(ranker, optimizer, keys, hour)):
                raise DataError(f"{self.config.variant} diverged on {hour}: its loss is not finite; {REMEDY}")
            optimizer.end_hour()
            metrics = tested.result()
        else:
            expire_ids(ranker, hour)
        return HourResult(self.config.variant, hour, metrics, time.perf_counter() - begun, drawn.digest)

    def _test(
        self, drawn: HourSamples, keys: HourKeys, scores: np.ndarray, ranker: Ranker
    ) -> Callable[[], dict[str, float]]:
        """What writes the predictions and returns their metrics; it no longer needs the ranker, which may train meanwhile."""
        at = self.samples.heads.index(self.label)
        table = prediction_table(drawn, keys, scores[:, at], at, ranker)

        def judge() -> dict[str, float]:
            write_parquet(prediction_file(self.settings, self.config.variant, drawn.hour), table)
            return summary(as_predictions(table))

        return judge


def prediction_table(drawn: HourSamples, keys: HourKeys, scores: np.ndarray, head: int, ranker: Ranker) -> pa.Table:
    """Predictions of one head with what evaluation slices by; rows with an unknown label are left out.

    ``user_kind`` is new (no event in the clock's window), regular, or heavy (from ``HEAVY_EVENTS`` on);
    ``item_kind`` is new where the ranker has not been trained on the item; ``facet_<name>`` is the item's value,
    ``attribute_<user or item>_<name>`` that of a category of one.
    ``hour`` is the hour's number, ``request_id`` is there where the log tells requests.

    Raises:
        DataError: a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise DataError(
            f"{ranker.config.variant} has no finite scores for {drawn.hour}: its training diverged; {REMEDY}"
        )
    events = np.expm1(keys.dense[:, 0] * LOG_EVENTS_SCALE)
    kinds = np.array(["new", "regular", "heavy"])
    known = ranker.items.rows(keys.items).numpy() > 0
    table = pa.table(
        {
            "event_id": drawn.tables.samples["event_id"],
            "user_id": drawn.tables.samples["user_id"],
            "item_id": drawn.tables.samples["item_id"],
            **{name: drawn.tables.samples[name] for name in drawn.tables.samples.column_names if name == "request_id"},
            "local_hour": pa.array(keys.moment.hours.numpy().astype(np.int32)),
            "weekday": pa.array(keys.moment.weekday.numpy().astype(np.int32)),
            "user_kind": pa.array(kinds[(events > 0.5).astype(int) + (events >= HEAVY_EVENTS - 0.5)]),
            "item_kind": pa.array(np.where(known, "known", "new")),
            **{f"{FACET}{f}": drawn.tables.samples[f] for f in ranker.facets},
            **{
                f"{CONTEXT}{c}": drawn.tables.samples[c]
                for c in ranker.context
                if c in drawn.tables.samples.column_names
            },
            **{f"{ATTRIBUTE}{name}": values for name, values in _categories(drawn, ranker).items()},
            "label": pa.array(keys.labels[:, head].astype(np.int8)),
            "score": pa.array(scores.astype(np.float32)),
        }
    )
    return with_hour(table.filter(pa.array(keys.known[:, head])), drawn.hour)


def _categories(drawn: HourSamples, ranker: Ranker) -> dict[str, pa.ChunkedArray]:
    """For each sample the categories of its user and item that the ranker reads, by column."""
    samples, tables = drawn.tables.samples, {"user": drawn.tables.user_attributes, "item": drawn.tables.item_attributes}
    told = {}
    for owner, table in tables.items():
        at = pa.array(entity_rows(table, f"{owner}_id", samples[f"{owner}_id"].to_numpy()))
        rows = pc.if_else(pc.less(at, 0), pa.scalar(None, pa.int64()), at)
        for field in of_type(ranker.attributes, "category"):
            if field.owner == owner and field.column in table.column_names:
                told[field.column] = table[field.column].take(rows)
    return told


def fit(ranker: Ranker, optimizer: Optimizer, keys: HourKeys, hour: Hour) -> float:
    """One pass over an hour's samples in order; returns the mean loss.

    The loss is the mean binary cross-entropy over known labels, summed over the heads, with what ``session_loss`` and
    ``embedding_penalty`` add. At the first hour of a UTC day ids unseen for long give their rows back.
    """
    ranker.train()
    expire_ids(ranker, hour)
    trained = trained_keys(ranker, keys)
    for name, table in ranker.tables.items():
        table.grow(trained[name], hour.number)
    whole, losses = to_batch(keys, ranker), []
    for batch in ranker.batches(whole, ranker.config.batch_size):
        loss = batch_loss(ranker, batch, len(batch))
        loss.backward()
        losses.append(loss.detach() * len(batch))  # read at the end: a GPU is not waited for
        optimizer.step()
    if ranker.needs_counts:
        count_samples(ranker, whole, hour)
    ranker.numbers.update(keys.numbers)
    return sum(float(loss) for loss in losses) / max(len(keys), 1)


def ids_expire(hour: Hour) -> bool:
    """Whether ids unseen for long give their rows back before this hour is trained on: once a UTC day."""
    return hour.number % 24 == 0


def expire_ids(ranker: Ranker, hour: Hour) -> None:
    """Let ids unseen for long give their rows back, if an hour is the one for it."""
    if ids_expire(hour):
        for table in ranker.tables.values():
            table.expire(hour.number - 24 * ranker.config.expire_days)


def trained_keys(ranker: Ranker, keys: HourKeys) -> dict[str, np.ndarray]:
    """For each table the keys that get a row by being trained on."""
    parts = (
        keys.facets,
        keys.context,
        keys.categories,
        ranker.numbers.keys(keys.numbers),
        keys.lists,
        keys.clock_values,
    )
    values = np.concatenate([part.ravel() for part in parts])
    return {"users": keys.users, "items": keys.items, "values": values[values != 0]}


def batch_loss(ranker: Ranker, batch: Batch, count: int, model: nn.Module | None = None) -> Tensor:
    """Loss of the samples of a step; ``model`` may wrap the ranker."""
    logits = (model or ranker)(batch)
    loss = pointwise_loss(ranker, batch, logits, count)
    if ranker.config.session_loss:
        samples = session_samples(ranker, batch, logits, batch.user_position)
        loss = loss + loss_within_sessions(ranker, samples, count)
    return loss


def pointwise_loss(ranker: Ranker, batch: Batch, logits: Tensor, count: int) -> Tensor:
    """Cross-entropy and penalties of samples of a step that ``count`` samples take part in, in all processes."""
    labels = batch.labels + ranker.config.label_smoothing * (0.5 - batch.labels)
    each = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    loss = (each * batch.known).sum() / count
    if ranker.config.embedding_penalty:
        loss = loss + ranker.config.embedding_penalty * ranker.squared_embeddings() / count
    return loss


def loss_within_sessions(ranker: Ranker, samples: SessionSamples, count: int) -> Tensor:
    """What ``session_loss`` adds to the loss of a step that ``count`` samples take part in, in all processes."""
    return ranker.config.session_loss * session_loss(samples) / count


def session_samples(ranker: Ranker, batch: Batch, logits: Tensor, sessions: Tensor) -> SessionSamples:
    """What ``session_loss`` reads of samples: those whose outcome is known of the behavior that metrics look at."""
    at = ranker.heads.index(label_of(ranker.heads))
    known = batch.known[:, at]
    return SessionSamples(sessions[known], batch.labels[known, at], logits[known, at])


def count_samples(ranker: Ranker, whole: Batch, hour: Hour) -> None:
    """Add the hour's samples to what everybody does at this time of day."""
    time_of_day_counts, at = ranker.time_of_day_counts, ranker.heads.index(label_of(ranker.heads))
    tables = [ranker.items, ranker.values, *([ranker.users] if ranker.target_statistics else [])]
    time_of_day_counts.begin(hour.number, tables)
    known, hours = whole.known[:, at], whole.moment.hours
    labels = whole.labels[known, at]
    time_of_day_counts.add(ranker.items, whole.items[known], hours[known], labels)
    for f in range(len(ranker.facets)):
        time_of_day_counts.add(ranker.values, whole.facets[known, f], hours[known], labels)
    if ranker.target_statistics:
        time_of_day_counts.add(ranker.users, whole.users[known], hours[known], labels)
        for rows in (*whole.context[known].T, *whole.attributes[known].T):
            time_of_day_counts.add(ranker.values, rows, hours[known], labels)


def read_predictions(settings: Settings, variant: str, start: Hour, end: Hour) -> pa.Table:
    """Progressive predictions of the hours in [start, end)."""
    files = {hour: prediction_file(settings, variant, hour) for hour in hour_range(start, end)}
    return joined([with_hour(pq.ParquetFile(f).read(), hour) for hour, f in files.items() if f.exists()])
