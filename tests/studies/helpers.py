"""What tests of studies ask of scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from studies.lab import Lab, ScoringRun
from studies.log import Log


def scored(lab: Lab, log: Log, run: ScoringRun, names: Iterable[Any]) -> Mapping[Any, np.ndarray]:
    """Do a run, and give its scores of every sample by the names of its columns."""
    lab.run([(log, run)])
    return dict(zip(names, lab.read(log, run).T, strict=True))


def close(some: np.ndarray, others: np.ndarray) -> bool:
    """Equal but for the last bits: sums depend on how many samples are scored at once."""
    return np.allclose(some, others, rtol=0, atol=1e-6)
