"""Training steps: an hour for every variant, and the history in bulk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from typing import Any

from core.cli import run_child
from core.environment import platform_environment
from core.errors import NotReadyError
from core.hours import DAY_HOURS, Hour, hour_range
from core.logs import log_context
from core.progress import step
from core.settings import Settings
from core.state_version import check_state_version
from events.store import EventStore
from serving.routing import load_routes

log = logging.getLogger("pipeline.training")

BULK_CHECKPOINT_HOURS = DAY_HOURS * 7


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
                f"{self.variant} as of {self.hour} is no registered version; train it with its model logged"
            )
        return self.version

    def as_json(self) -> dict[str, Any]:
        """Plain values, for an XCom or the last line of a command."""
        return {**asdict(self), "hour": self.hour.key}


def build_samples(settings: Settings, first: Hour, until: Hour) -> int:
    """Build the samples of hours [first, until]; returns the hours built."""
    from training.samples import SampleStore

    store = EventStore(settings.events_dir)
    return SampleStore(settings, store).build(h for h in store.hours() if first <= h <= until)


@log_context(variant="variant", hour="until")
def train_variant(
    settings: Settings,
    variant: str,
    until: Hour,
    *,
    save_every: int = 1,
    log_model: bool = True,
) -> TrainedVariant:
    """Train a variant up to an hour, log its hours to MLflow, and log the state as a model.

    The state of the candidate's and the baseline's variant, and of variants that an experiment serves, becomes a registered
    version. Started by ``torchrun``, the processes train together, and the first of them logs.

    Args:
        settings: of the workspace.
        variant: to train.
        until: last hour to train.
        save_every: hours between checkpoints.
        log_model: log the state at ``until`` as a model.

    Raises:
        NotReadyError: an hour in between has no events or clocks yet.
    """
    from model_registry.tracking import Tracker
    from training.group import start_group
    from training.samples import SampleStore
    from training.trainer import HourResult, Trainer

    check_state_version(settings)
    group = start_group()
    tracker = Tracker(settings, variant) if group.first else None
    trainer = Trainer(settings, variant, SampleStore(settings, EventStore(settings.events_dir)), group=group)
    seen: list[HourResult] = []

    def report(results: Any, info: Any) -> None:
        if tracker:
            tracker.log_hours(results, info)
        seen.extend(results[-1:])
        log.info("%s: trained to %s, %d samples so far", variant, info.hour, info.samples_seen)

    info = trainer.train(until, save_every=save_every, report=report)
    registered = variant in {settings.candidate_variant, settings.baseline_variant, *load_routes(settings)[0].models}
    version = None
    if tracker and log_model:
        if Hour.parse(info.hour).number % DAY_HOURS == DAY_HOURS - 1 or save_every > 1:
            tracker.log_plots(trainer.states, Hour.parse(info.hour))
        version = tracker.log_model(trainer.states, Hour.parse(info.hour), register=registered)
    group.wait()
    metrics = seen[-1].metrics if seen else {}
    return TrainedVariant(variant, Hour.parse(info.hour), info.digest, version, metrics)


def train_hour(settings: Settings, hour: Hour) -> list[TrainedVariant]:
    """Test, then train, every variant on an hour."""
    build_samples(settings, hour, hour)
    return [train_variant(settings, variant, hour) for variant in settings.variants]


def train_history(settings: Settings, until: Hour, *, processes: int = 2) -> list[TrainedVariant]:
    """Train every variant on all hours up to ``until``.

    Args:
        settings: of the workspace.
        until: last hour to train.
        processes: variants that are trained side by side.
    """
    from model_registry.store import open_mlflow

    first = EventStore(settings.events_dir).hours()[0]
    log.info("building the samples of %s to %s", first, until)
    build_samples(settings, first, until)
    open_mlflow(settings)
    done = 0
    with ThreadPoolExecutor(processes) as pool:
        jobs = [pool.submit(_train_history_of, settings, variant, until) for variant in settings.variants]
        for job in as_completed(jobs):
            done += 1
            text = "%s is trained up to %s (%d of %d variants)"
            log.info(text, job.result(), until, done, len(jobs), extra=step(done, len(jobs)))
    # Models are logged one by one, so that version numbers do not depend on which process was faster.
    return [train_variant(settings, variant, until, save_every=DAY_HOURS) for variant in settings.variants]


def _train_history_of(settings: Settings, variant: str, until: Hour) -> str:
    environment = platform_environment(settings)
    run_child("pipeline", "train", variant, "--until", until.key, "--save-every", str(BULK_CHECKPOINT_HOURS),
                      "--no-model", environment=environment)  # fmt: skip
    return variant


def replay(settings: Settings, since: Hour) -> list[TrainedVariant]:
    """Train again from the last states before ``since``, after its hours were corrected.

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
    SampleStore(settings, store).build(hour_range(since, until + 1), force=True)
    for variant in settings.variants:
        states = StateStore(settings.training_dir / "states", variant)
        dropped = states.drop_after(since - 1)
        log.info("%s: %d states after %s dropped, training again to %s", variant, len(dropped), since - 1, until)
        results.append(train_variant(settings, variant, until, save_every=24))
    return results


def stale_hours(settings: Settings) -> list[Hour]:
    """Trained hours whose events changed since their samples were built (late events)."""
    from training.samples import SampleStore

    store = EventStore(settings.events_dir)
    samples = SampleStore(settings, store)
    return [h for h in store.hours() if (samples.folder(h) / "meta.json").exists() and not samples.is_current(h)]
