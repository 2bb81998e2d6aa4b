"""Parameters of the running hour: those of a registered version, trained on with what has happened since the hour began.

They serve until the hour is over and are dropped then. Nothing that lasts is made of them: no state builds on them, no version is
registered, the gate never scores them. What is published of a version is what differs from its own tensors, so it is as large as
what the hour's samples have touched.

Layout below the workspace's ``streaming/parameters``::

    published.json    the hour, and of each version what is published
    VERSION-…/        weights.safetensors and state.json, as of a trained state that builds on the version's
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from core.errors import CorruptStateError
from core.files import read_json, replaced_directory, write_json
from core.hours import Hour
from core.settings import Settings
from evaluation.metrics import logloss
from evaluation.predictions import Predictions
from feature_repo.running import running_parameters
from training.config import label_of
from training.model import RankerModel, load_model, load_tensors
from training.ranker import Ranker
from training.samples import HourSamples
from training.scoring import predict
from training.state import changed_tensors, load_to_train, ranker_tensors, scoring_ranker, write_state
from training.trainer import fit

FAR_ABOVE = 1.1
"""Parameters whose log-loss is more than so many times the registered version's on the same samples are not published: on all of the
hour, scored before they were trained on, or on the last ones, after that."""
JUDGED_FROM = 200
"""Samples with a known label from which on this is judged."""


@dataclass(frozen=True)
class RunningParameters:
    """What is published of a version.

    Attributes:
        version: registered version that they are based on.
        state: digest that identifies its state.
        folder: name of the folder with the tensors.
        until: time of the newest sample that they were trained on, ISO 8601 UTC.
        samples: of the hour that they were trained on.
        published: when, ISO 8601 UTC.
    """

    version: str
    state: str
    folder: str
    until: str
    samples: int
    published: str

    @property
    def name(self) -> str:
        """What answers and logs call them.

        >>> RunningParameters("7", "", "", "2026-11-28T12:40:31.5+00:00", 9, "").name
        '7+12:40:31'
        """
        return f"{self.version}+{datetime.fromisoformat(self.until):%H:%M:%S}"


class PublishedParameters:
    """What the lane has published, for one writer and any number of readers.

    Args:
        settings: of the workspace.
    """

    def __init__(self, settings: Settings) -> None:
        self.root = running_parameters(settings)
        self._index = self.root / "published.json"

    def read(self, hour: Hour) -> dict[str, RunningParameters]:
        """What is published for the running hour, by version; nothing of another hour."""
        if not self._index.exists():
            return {}
        content = read_json(self._index)
        told = content["versions"] if content["hour"] == hour.key else {}
        return {version: RunningParameters(**each) for version, each in told.items()}

    def load(self, parameters: RunningParameters, base: RankerModel) -> RankerModel:
        """Load published parameters.

        Args:
            parameters: of ``read``.
            base: the registered version, in memory.

        Raises:
            CorruptStateError: they are damaged, of another state than ``base``, or gone by now.
        """
        if parameters.state != base.info.digest:
            raise CorruptStateError(f"the lane's parameters of version {parameters.version} are based on another state")
        try:
            return load_model(self.root / parameters.folder, base)
        except FileNotFoundError:
            raise CorruptStateError(f"the lane's parameters {parameters.folder} were replaced meanwhile") from None

    def publish(self, hour: Hour, trainers: Mapping[str, RunningTrainer]) -> dict[str, RunningParameters]:
        """Put the parameters of versions in the place of all that were published, at once.

        Args:
            hour: the running hour.
            trainers: of the versions whose parameters may serve.
        """
        published = {}
        for version, trainer in trainers.items():
            name = f"{version}-{uuid.uuid4().hex[:12]}"
            with replaced_directory(self.root / name) as folder:
                trainer.write(folder)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            published[version] = RunningParameters(
                version, trainer.info.digest, name, trainer.until.isoformat(), trainer.samples, now
            )
        write_json(
            self._index, {"hour": hour.key, "versions": {version: asdict(each) for version, each in published.items()}}
        )
        self._remove_but({each.folder for each in published.values()})
        return published

    def _remove_but(self, folders: set[str]) -> None:
        for path in self.root.glob("*/"):
            if path.name not in folders:
                shutil.rmtree(path, ignore_errors=True)


class RunningTrainer:
    """Trains one version on the running hour, and watches that it gets no worse.

    Args:
        version: registered version.
        folder: of its state.

    Raises:
        CorruptStateError: the folder's weights do not match their digest.
    """

    def __init__(self, version: str, folder: Path) -> None:
        self.version = version
        self.info, tensors = load_tensors(folder)
        torch.set_num_threads(self.info.ranker_config.threads)
        self.ranker, self._optimizer = load_to_train(tensors, self.info)
        self._before = scoring_ranker(tensors, self.info)
        self._head = self.info.heads.index(label_of(self.info.heads))
        self._judged = 0
        self._losses = np.zeros(2)
        self.samples, self.hour = 0, ""
        self.until = datetime.fromtimestamp(0, UTC)
        self.withheld = ""
        """Why the parameters must not serve; empty if they may."""

    def learn(self, drawn: HourSamples) -> None:
        """Score samples, if there are any, then train on them; a version that is withheld learns no more."""
        if self.withheld or not drawn.tables.samples.num_rows:
            return
        keys = drawn.keys(self.ranker)
        known = keys.known[:, self._head]
        users, labels = keys.users[known], keys.labels[known, self._head]

        def loss(ranker: Ranker) -> float:
            """Log-loss, summed over the samples with a known label; infinite where a score is not finite."""
            scores = predict(ranker, keys)[:, self._head]
            if not np.isfinite(scores).all():
                return float("inf")
            return len(labels) * logloss(Predictions.of(users, labels, scores[known])).value if len(labels) else 0.0

        registered = loss(self._before)
        self._judged += len(labels)
        with self._optimizer.scoring(within_hour=self.samples > 0):
            self._losses += [loss(self.ranker), registered]
        self._watch(
            self._judged, float(self._losses[0]), float(self._losses[1]), "samples, scored before they were trained on"
        )
        if self.withheld:
            return
        fit(self.ranker, self._optimizer, keys, drawn.hour)
        with self._optimizer.scoring(within_hour=True):
            after = loss(self.ranker)
        self._watch(len(labels), after, registered, "samples after they were trained on")
        self.samples += len(keys)
        self.hour = drawn.hour.key
        newest = drawn.tables.samples["timestamp"][-1].as_py()
        self.until = max(self.until, newest.astimezone(UTC))

    def _watch(self, samples: int, loss: float, registered: float, of: str) -> None:
        """Withhold the parameters if their log-loss on samples is far above that of the version as it is registered."""
        if not np.isfinite(loss):
            self.withheld = f"scores are not finite, of {samples:,} {of}"
        elif samples >= JUDGED_FROM and loss > FAR_ABOVE * registered:
            self.withheld = f"log-loss {loss / samples:.4f}, {registered / samples:.4f} of the registered version, on {samples:,} {of}"

    def write(self, folder: Path) -> None:
        """Write what differs from the version's tensors, or everything where rows have moved; of the weights those that score.

        Args:
            folder: an empty one.
        """
        with self._optimizer.scoring(within_hour=self.samples > 0):
            delta = changed_tensors(self.ranker)
            tensors = ranker_tensors(self.ranker) if delta is None else delta
        info = replace(
            self.info, hour=self.hour, parent=self.info.digest, data=f"running until {self.until.isoformat()}",
            samples_seen=self.info.samples_seen + self.samples, builds_on=self.info.hour if delta is not None else "", shards=(),
            tables={name: table.size for name, table in self.ranker.tables.items()},
        )  # fmt: skip
        write_state(folder, info, {name: tensor.contiguous() for name, tensor in tensors.items()})
