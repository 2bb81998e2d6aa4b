"""The hourly trainer of several processes: what one process does, on parts of the hour and of the tables."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext

import numpy as np
import pyarrow as pa
import torch

from core.errors import ConfigError, DataError, PlatformError
from core.files import write_parquet
from core.hours import Hour
from core.memory import return_freed_memory
from core.settings import Settings
from evaluation.metrics import summary
from evaluation.prediction_table import as_predictions
from training.ahead import start
from training.batch import HourKeys
from training.checkpoint_delta import Tensors
from training.config import RankerConfig, code_version
from training.group import DistributedGroup, GroupLostError
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.samples import HourSamples, SampleStore
from training.scoring import score
from training.session_loss import SessionSamples
from training.sharded import checkpoint
from training.sharded.checkpoint import StateReader
from training.sharded.deal import Deal
from training.sharded.tables import ShardedTables
from training.state import load_dense_part, untrained_ranker
from training.state_info import StateInfo
from training.tensors import to_batch
from training.trainer import (
    REMEDY,
    HourResult,
    Report,
    Trainer,
    count_samples,
    ids_expire,
    loss_within_sessions,
    pointwise_loss,
    prediction_file,
    prediction_table,
    session_samples,
    trained_keys,
)
from training.warm_start import TakeOver

log = logging.getLogger("training.sharded")

POSITION = "position"
PROGRESS_SECONDS = 15.0
"""How often a long hour says how far it is."""


class SharedAdam(Optimizer):
    """Adam on the dense parameters, which all processes have alike; the tables learn within the backward pass."""

    def __init__(self, ranker: Ranker, group: DistributedGroup) -> None:
        super().__init__(ranker)
        self._group = group

    def step(self) -> None:
        """Apply the sum of the processes' gradients and clear them."""
        self._group.all_reduce(self.dense.parameters)
        self.dense.step()


class ShardedTrainer(Trainer):
    """Trains one variant of a source in several processes; each of them runs one, and all do the same in the same order."""

    def __init__(
        self,
        settings: Settings,
        variant: str,
        samples: SampleStore | None = None,
        config: RankerConfig | None = None,
        *,
        group: DistributedGroup,
    ) -> None:
        if settings.device == "cuda":
            raise ConfigError(
                "training in several processes uses CPUs: set CLOCK_DEVICE=cpu, or CLOCK_TRAIN_PROCESSES=1"
            )
        super().__init__(settings.model_copy(update={"device": "cpu"}), variant, samples, config)
        self.group = group
        group.agree("version of the code", code_version())
        group.agree("configuration", self.config.model_dump_json())
        self._tables: ShardedTables | None = None

    @property
    def tables(self) -> ShardedTables:
        """Of the state that is being trained on."""
        assert self._tables is not None
        return self._tables

    def steps(
        self, until: Hour, *, start: Hour | None = None, save_every: int = 1, report: Report | None = None
    ) -> Generator[Hour, None, StateInfo]:
        """As ``Trainer.steps``; whatever one process alone stumbles over ends the group."""
        try:
            return (yield from super().steps(until, start=start, save_every=save_every, report=report))
        except (PlatformError, GeneratorExit):
            raise
        except Exception as error:
            raise GroupLostError(f"rank {self.group.rank}: {type(error).__name__}: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self.states.writing() if self.group.first else nullcontext():
            self.group.wait()
            yield

    def _make(self, info: StateInfo) -> tuple[Ranker, SharedAdam]:
        ranker = untrained_ranker(info)
        self._tables = None  # two states at once would take twice the memory
        self._tables = ShardedTables(ranker, self.group)
        return ranker, SharedAdam(ranker, self.group)

    def _fresh(self) -> tuple[StateInfo, Ranker, Optimizer]:
        info = self._first_info()
        return info, *self._make(info)

    def _load(self, hour: Hour) -> tuple[StateInfo, Ranker, Optimizer]:
        ranker, optimizer = self._make(self.states.info(hour))
        reader = self.group.together(lambda: StateReader(self.states, hour), f"finding the state of {hour}")
        info, dense = self._read(reader, hour)
        load_dense_part(ranker, dense)
        optimizer.load(dense)
        for shard in self.tables.shards.values():
            shard.mark_saved()
        return info, ranker, optimizer

    def _read(
        self, reader: StateReader, hour: Hour, parts: Mapping[str, tuple[str, ...]] | None = None
    ) -> tuple[StateInfo, Tensors]:
        """Read this process's ids and rows of a state; returns its description and what belongs to no table."""
        shards, group = self.tables.shards, self.group
        group.together(lambda: reader.read_ids(shards), f"reading the ids of {hour}")
        self.tables.make_room()
        read = group.together(lambda: reader.read_rows(shards, parts), f"reading the state of {hour}")
        return_freed_memory()
        return read

    def _warm_start(self, before: StateInfo) -> tuple[StateInfo, Ranker, Optimizer]:
        info, ranker, optimizer = self._fresh()
        hour = Hour.parse(before.hour)
        reader = self.group.together(lambda: StateReader(self.states, hour), f"finding the state of {hour}")
        take_over = TakeOver.of(before, info, reader.shapes(), ranker, self.tables.shards)
        _, dense = self._read(reader, hour, take_over.parts)
        take_over.fill(ranker, optimizer, dense)
        if self.group.first:
            log.info("%s: %s", self.config.variant, take_over.info.warm_start)
        return take_over.info, ranker, optimizer

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
        if report:
            self.group.together(lambda: report(results, following) if self.group.first else None, "logging the hour")
        return checkpoint.save(self.states, following, ranker, optimizer, self.tables.shards, self.group, since=since)

    def _hour(self, hour: Hour, ranker: Ranker, optimizer: Optimizer, *, followed: bool) -> HourResult:
        del followed
        begun, group = time.perf_counter(), self.group
        group.together(lambda: self.samples.ensure(hour) if group.first else None, f"building the samples of {hour}")
        count = group.together(lambda: self.samples.count(hour), f"reading the size of {hour}")
        deal = Deal(count, ranker.config.batch_size, group.size)
        rows = deal.rows(group.rank)
        drawn = group.together(lambda: self.samples.read_part(hour, rows), f"reading its samples of {hour}")
        metrics: dict[str, float] = {}
        if count:
            keys = group.together(lambda: drawn.keys(ranker), f"decoding its samples of {hour}")
            self.tables.open(_looked_up(ranker, keys))
            batch = group.together(lambda: to_batch(keys, ranker), f"looking up its samples of {hour}")
            with torch.no_grad():
                self.tables.fetch(ranker.reads(batch))
            with optimizer.scoring():
                scores = group.together(lambda: score(ranker, batch), f"scoring its samples of {hour}")
            tested = self._test_part(drawn, rows, keys, scores, ranker)
            if not math.isfinite(self._fit(ranker, optimizer, keys, hour, deal)):
                raise DataError(f"{self.config.variant} diverged on {hour}: its loss is not finite; {REMEDY}")
            optimizer.end_hour()
            metrics = group.all_gather(group.together(tested.result, "measuring the predictions"))[0]
        else:
            self._expire_ids(ranker, hour)
        return HourResult(self.config.variant, hour, metrics, time.perf_counter() - begun, drawn.digest)

    def _test_part(
        self, drawn: HourSamples, rows: np.ndarray, keys: HourKeys, scores: np.ndarray, ranker: Ranker
    ) -> Future[dict[str, float]]:
        """Predictions of all processes, which the first writes in the samples' order and measures while it trains."""
        at = self.samples.heads.index(self.label)

        def predictions() -> pa.Table:
            table = prediction_table(drawn, keys, scores[:, at], at, ranker)
            return table.append_column(POSITION, pa.array(rows[keys.known[:, at]]))

        part = self.group.together(predictions, "listing its predictions")
        tables = self._to_first(part)

        def measured() -> dict[str, float]:
            if not tables:
                return {}
            table = pa.concat_tables(tables).sort_by(POSITION).drop_columns([POSITION]).combine_chunks()
            write_parquet(prediction_file(self.settings, self.config.variant, drawn.hour), table)
            return summary(as_predictions(table))

        return start(measured)

    def _to_first(self, table: pa.Table) -> list[pa.Table]:
        """The processes' tables in the first one, in the order of the ranks; nothing in the others."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        mine = torch.frombuffer(sink.getvalue(), dtype=torch.uint8)
        parts = self.group.exchange([mine, *[mine[:0]] * (self.group.size - 1)])
        return [pa.ipc.open_stream(part.numpy()).read_all() for part in parts if len(part)]

    def _fit(self, ranker: Ranker, optimizer: Optimizer, keys: HourKeys, hour: Hour, deal: Deal) -> float:
        """One pass over the hour: each step takes the next samples of every process's part of it.

        Returns:
            The loss of all steps and processes, which is not finite where training diverged.
        """
        tables, group = self.tables, self.group
        ranker.train()
        self._expire_ids(ranker, hour)
        tables.grow(trained_keys(ranker, keys), hour.number)
        tables.open(_looked_up(ranker, keys))
        whole = group.together(lambda: to_batch(keys, ranker), f"looking up its samples of {hour}")
        samples, edges = deal.samples(), deal.edges(group.rank).tolist()
        shown, losses = time.monotonic() + PROGRESS_SECONDS, torch.zeros(1)
        users = torch.from_numpy(keys.users).split(np.diff(edges, prepend=0).tolist())
        for k, batch in enumerate(ranker.cut(whole, edges)):
            nothing = tables.fetch(ranker.reads(batch))
            logits = ranker(batch) if len(batch) else batch.labels  # without samples there are no rows to look up
            loss = nothing
            if len(batch):
                loss = loss + pointwise_loss(ranker, batch, logits, int(samples[k]))
            if ranker.config.session_loss:
                mine = session_samples(ranker, batch, logits, users[k])
                loss = loss + loss_within_sessions(ranker, self._with_others(mine), int(samples[k]))
            loss.backward()
            losses += loss.detach()
            optimizer.step()
            if group.first and time.monotonic() > shown:
                shown += PROGRESS_SECONDS
                log.info("%s: %s, step %d of %d", self.config.variant, hour, k + 1, len(samples))
        if ranker.needs_counts:
            count_samples(ranker, whole, hour)
        tables.settle(ranker.time_of_day_counts.weight)
        self._close(ranker, keys)
        return float(group.sum(losses))

    def _expire_ids(self, ranker: Ranker, hour: Hour) -> None:
        """As ``expire_ids``, of all processes together."""
        if ids_expire(hour):
            self.tables.expire(hour.number - 24 * ranker.config.expire_days)

    def _with_others(self, mine: SessionSamples) -> SessionSamples:
        """A step's samples of all processes, as a session may have some in each; gradients are those of this process's logits."""
        rank, detached = self.group.rank, SessionSamples(*(part.detach() for part in mine))
        received = [self.group.exchange([part] * self.group.size) for part in detached]
        received[-1][rank] = mine.logits
        return SessionSamples(*map(torch.cat, received))

    def _close(self, ranker: Ranker, keys: HourKeys) -> None:
        """After an hour: quantiles of numbers rest on the samples of all processes."""
        if ranker.numbers.columns:
            ranker.numbers.update(self.group.gather(torch.from_numpy(keys.numbers)).numpy())
        for table in self.tables.hour.values():
            table.close()


def _looked_up(ranker: Ranker, keys: HourKeys) -> dict[str, np.ndarray]:
    """For each table the keys that samples have, also those that get no row by being trained on."""
    trained = trained_keys(ranker, keys)
    return {**trained, "items": np.concatenate([trained["items"], keys.recent_items.ravel()])}
