"""Training steps: an hour for every variant, and the history in bulk."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from structlog.contextvars import bound_contextvars

from core.cli import run_child
from core.documents import JsonObject
from core.environment import platform_environment
from core.errors import NotReadyError, is_interruption
from core.hours import DAY_HOURS, Hour
from core.logs import log_context
from core.numbers import finite
from core.progress import step
from core.settings import Settings
from core.state_version import check_state_version
from events.store import EventStore
from serving.routing import load_routes
from training.config import check_variants

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from training.group import Group
    from training.samples import SampleStore
    from training.state_info import StateInfo
    from training.trainer import HourResult

log = logging.getLogger("pipeline.training")

BULK_CHECKPOINT_HOURS = DAY_HOURS * 7
CHILDREN_FROM_EVENTS = 300_000
"""From this many events times variants, a history is trained in separate processes: fewer are done before one has started."""


@dataclass(frozen=True)
class TrainedVariant:
    """What a variant was trained to.

    Attributes:
        variant: its name.
        hour: last hour that it was trained on.
        digest: of its state.
        version: number of the registered version; None where the state was not registered.
        metrics: of the last hour trained now, taken before training on it; empty where nothing was left to train.
    """

    variant: str
    hour: Hour
    digest: str
    version: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def registered(self) -> str:
        """Number of the registered version.

        Raises:
            NotReadyError: the state was not registered.
        """
        if self.version is None:
            raise NotReadyError(
                f"{self.variant} as of {self.hour} is not a registered version; train it with its model logged"
            )
        return self.version

    def as_json(self) -> JsonObject:
        """Plain values, for an XCom or the last line of a command."""
        metrics = {name: finite(value) for name, value in self.metrics.items()}
        return {**asdict(self), "hour": self.hour.key, "metrics": metrics}

    @classmethod
    def from_json(cls, content: JsonObject) -> TrainedVariant:
        """The reverse of ``as_json``."""
        metrics = {name: math.nan if value is None else value for name, value in content["metrics"].items()}
        return cls(**{**content, "hour": Hour.parse(content["hour"]), "metrics": metrics})


def build_samples(settings: Settings, first: Hour, until: Hour) -> int:
    """Build the samples of hours [first, until]; returns the hours built."""
    from training.samples import SampleStore

    store = EventStore(settings.events_dir)
    return SampleStore(settings, store).build(store.closed_between(first, until + 1))


def train_variant(
    settings: Settings,
    variant: str,
    until: Hour,
    *,
    save_every: int = 1,
    log_model: bool = True,
) -> TrainedVariant:
    """Train one variant; see ``train_variants``."""
    return train_variants(settings, [variant], until, save_every=save_every, log_model=log_model)[0]


@log_context(hour="until")
def train_variants(
    settings: Settings,
    variants: Sequence[str],
    until: Hour,
    *,
    save_every: int = 1,
    log_model: bool = True,
) -> list[TrainedVariant]:
    """Train variants up to an hour in turn, log their hours to MLflow, and log their states as models.

    The state of the candidate's and the baseline's variant, and of variants that an experiment serves, becomes a registered
    version; of the others a model is logged once a day. A variant that fails does not keep the others from being trained;
    run again, those that are done are not trained again. With ``train_processes`` above 1 so many processes are started and
    train together; so do those that ``torchrun`` started. The first of them logs.

    Args:
        settings: of the workspace.
        variants: to train.
        until: last hour to train.
        save_every: hours between checkpoints.
        log_model: log states at ``until`` as models.

    Returns:
        What each variant was trained to, in the order of ``variants``.

    Raises:
        NotReadyError: an hour in between has no events or clocks yet, or MLflow does not answer.
        Exception: of the variant that failed, once the others are through; one that a retry may fix goes first.
    """
    from model_registry.store import open_mlflow
    from training.group import join_group, processes_started
    from training.samples import SampleStore
    from training.trainer import train_together

    check_state_version(settings)
    if settings.train_processes > 1 and processes_started() == 1:
        return _train_in_processes(settings, variants, until, save_every=save_every, log_model=log_model)
    group = join_group(settings.training_dir / "processes")
    client = open_mlflow(settings) if group.first else None
    samples = SampleStore(settings, EventStore(settings.events_dir))
    failures: dict[str, Exception] = {}
    jobs: list[_VariantTraining] = []
    for variant in variants:
        with _noting_failure(failures, variant):
            jobs.append(_VariantTraining(settings, variant, samples, group, client))
    outcomes = train_together(
        [job.trainer for job in jobs], until, save_every=save_every, reports=[job.report for job in jobs]
    )
    trained: list[TrainedVariant] = []
    for job, outcome in zip(jobs, outcomes, strict=True):
        with _noting_failure(failures, job.variant), bound_contextvars(variant=job.variant):
            if isinstance(outcome, Exception):
                raise outcome
            trained.append(group.together(partial(job.finish, outcome, log_model=log_model, in_bulk=save_every > 1),
                                          f"logging {job.variant}"))  # fmt: skip
    if failures:
        raise next((e for e in failures.values() if isinstance(e, NotReadyError)), next(iter(failures.values())))
    return trained


def _train_in_processes(
    settings: Settings, variants: Sequence[str], until: Hour, *, save_every: int, log_model: bool
) -> list[TrainedVariant]:
    """``train_variants`` in processes that train together."""
    from pipeline.processes import run_group

    log.info("training %s in %d processes", ", ".join(variants), settings.train_processes)
    output = run_group(
        "pipeline", "train", *variants, "--until", until.key, "--save-every", str(save_every),
        *([] if log_model else ["--no-model"]), processes=settings.train_processes,
        environment=platform_environment(settings), folder=settings.training_dir / "processes",
        stall_seconds=settings.train_stall_seconds,
    )  # fmt: skip
    return [TrainedVariant.from_json(each) for each in json.loads(output.splitlines()[-1])]


class _VariantTraining:
    """One variant's trainer with where its hours and models are logged."""

    def __init__(
        self, settings: Settings, variant: str, samples: SampleStore, group: Group, client: MlflowClient | None
    ) -> None:
        from model_registry.tracking import Tracker
        from training.group import DistributedGroup
        from training.trainer import Trainer

        self.settings, self.variant = settings, variant
        self.tracker = Tracker(settings, variant, client) if group.first else None
        if isinstance(group, DistributedGroup):
            from training.sharded.trainer import ShardedTrainer

            self.trainer: Trainer = ShardedTrainer(settings, variant, samples, group=group)
        else:
            self.trainer = Trainer(settings, variant, samples)
        self.metrics: Mapping[str, float] = {}

    def report(self, results: Sequence[HourResult], info: StateInfo) -> None:
        """Log the hours of a checkpoint."""
        with bound_contextvars(variant=self.variant):
            if self.tracker:
                self.tracker.log_hours(results, info)
            self.metrics = results[-1].metrics
            log.info("%s: trained to %s, %d samples so far", self.variant, info.hour, info.samples_seen)

    def finish(self, info: StateInfo, *, log_model: bool, in_bulk: bool) -> TrainedVariant:
        """Log the state as a model: every hour where it can be offered, else at the end of a day."""
        hour, settings, version = Hour.parse(info.hour), self.settings, None
        registered = self.variant in {
            settings.candidate_variant,
            settings.baseline_variant,
            *load_routes(settings)[0].models(hour.start),
        }
        if self.tracker and log_model:
            day_is_over = in_bulk or hour.number % DAY_HOURS == DAY_HOURS - 1
            if day_is_over:
                self.tracker.log_plots(self.trainer.states, hour)
            if day_is_over or registered:
                version = self.tracker.log_model(self.trainer.states, hour, register=registered)
        return TrainedVariant(self.variant, hour, info.digest, version, self.metrics)


@contextmanager
def _noting_failure(failures: dict[str, Exception], variant: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, the other variants are not to suffer
        if is_interruption(error):
            raise
        log.error("%s was not trained: %s", variant, error)
        failures[variant] = error


def train_hour(settings: Settings, hour: Hour) -> list[TrainedVariant]:
    """Test, then train, every variant on an hour."""
    check_variants(settings)
    build_samples(settings, hour, hour)
    return train_variants(settings, settings.variants, hour)


def train_history(settings: Settings, until: Hour, *, processes: int = 2) -> list[TrainedVariant]:
    """Train every variant on all hours up to ``until``.

    Args:
        settings: of the workspace.
        until: last hour to train.
        processes: that share the variants of a long history.
    """
    from model_registry.store import open_mlflow

    store = EventStore(settings.events_dir)
    first = store.first_hour()
    log.info("building the samples of %s to %s", first, until)
    build_samples(settings, first, until)
    open_mlflow(settings)
    events = store.count(store.hours())
    if events * len(settings.variants) < CHILDREN_FROM_EVENTS or settings.train_processes > 1:
        return train_variants(settings, settings.variants, until, save_every=BULK_CHECKPOINT_HOURS)
    done = 0
    shares = [share for n in range(processes) if (share := settings.variants[n::processes])]
    with ThreadPoolExecutor(processes) as pool:
        jobs = [pool.submit(_train_history_of, settings, share, until) for share in shares]
        for job in as_completed(jobs):
            names = job.result()
            done += len(names)
            total, text = len(settings.variants), "%s: trained up to %s (%d of %d variants)"
            log.info(text, ", ".join(names), until, done, total, extra=step(done, total))
    # Models are logged one by one, so that version numbers do not depend on which process was faster.
    return train_variants(settings, settings.variants, until, save_every=DAY_HOURS)


def _train_history_of(settings: Settings, variants: Sequence[str], until: Hour) -> Sequence[str]:
    environment = platform_environment(settings)
    run_child("pipeline", "train", *variants, "--until", until.key, "--save-every", str(BULK_CHECKPOINT_HOURS),
                      "--no-model", environment=environment)  # fmt: skip
    return variants


def replay(settings: Settings, since: Hour) -> list[TrainedVariant]:
    """Train again from the last states before ``since``, after its hours were corrected; from the first hour where none is earlier.

    Clocks must have been brought up to date first. Returns what each variant was trained to.
    """
    from training.samples import SampleStore
    from training.state import StateStore

    store = EventStore(settings.events_dir)
    results = []
    heads = {v: StateStore(settings.training_dir / "states", v).head() for v in settings.variants}
    until = max((h for h in heads.values() if h is not None), default=None)
    if until is None or until < since:
        return []
    SampleStore(settings, store).build(store.closed_between(since, until + 1), force=True)
    for variant in settings.variants:
        states = StateStore(settings.training_dir / "states", variant)
        dropped = states.drop_after(since - 1)
        log.info("%s: %d states after %s dropped, training again to %s", variant, len(dropped), since - 1, until)
        results.append(train_variant(settings, variant, until, save_every=DAY_HOURS))
    return results


def stale_hours(settings: Settings) -> list[Hour]:
    """Trained hours whose events changed since their samples were built (late events)."""
    from training.samples import SampleStore

    store = EventStore(settings.events_dir)
    samples = SampleStore(settings, store)
    return [h for h in store.hours() if (samples.folder(h) / "meta.json").exists() and not samples.is_current(h)]
