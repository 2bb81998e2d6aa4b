"""Runs of models of other libraries over a log: fitted to its first part, static or brought up to date every day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from core.files import digest_text
from core.hours import DAY_HOURS
from studies.columns import Columns, columns_of
from studies.log import Log, evaluated_from
from studies.peer_models import LightGBMPeer, LogisticPeer, Peer
from studies.rechub_models import RechubPeer

PEERS: dict[str, Callable[[Columns, int], Peer]] = {
    "LightGBM": LightGBMPeer,
    "logistic regression": LogisticPeer,
    "DCN-v2": partial(RechubPeer, "dcn_v2"),
    "DeepFM": partial(RechubPeer, "deepfm"),
    "DIN": partial(RechubPeer, "din"),
}
CHECKED_SHARE = 0.2
"""Settings are chosen on this last part of the time before what is evaluated."""
CODE = ("columns.py", "peer_models.py", "peer_runs.py", "rechub_models.py")


@dataclass(frozen=True)
class PeerRun:
    """A model of another library over a log.

    Attributes:
        peer: name in ``PEERS``.
        seed: of its draws.
        schedule: ``static``: fitted once to everything before the evaluated time; ``daily``: also every 24 hours after.
    """

    peer: str
    seed: int
    schedule: Literal["static", "daily"]

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.peer}, {self.schedule}, seed {self.seed}"

    def identity(self, log: Log) -> list[str | int]:
        """What the scores depend on besides the samples."""
        del log
        code = digest_text(*(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in CODE))
        return [self.peer, self.seed, self.schedule, code]

    def score(self, log: Log) -> np.ndarray:
        """Scores of the evaluated samples with a known label, NaN elsewhere. Shape (samples,)."""
        columns = columns_of(log)
        start, end = int(columns.hour[0]), int(columns.hour[-1]) + 1
        first = evaluated_from(log.source, columns.hour)
        split = round(first - CHECKED_SHARE * (first - start))
        model = PEERS[self.peer](columns, self.seed)
        model.tune(columns.rows(start, split), columns.rows(split, first))
        model.fit(columns.rows(start, first))
        scores = np.full(len(columns), np.nan)
        for day in range(first, end, DAY_HOURS):
            rows = columns.rows(day, day + DAY_HOURS)
            if not len(rows):
                continue
            scores[rows] = model.predict(rows)
            if self.schedule == "daily" and day + DAY_HOURS < end:
                model.update(columns.rows(start, day), rows)
        return scores
