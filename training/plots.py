"""Drawings of a variant's day for MLflow: metrics by hour of day, calibration, the kernel that was learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from evaluation.metrics import METRICS
from evaluation.prediction_table import as_predictions
from evaluation.predictions import Predictions
from training.ranker import Ranker
from training.time_modules.base import normal_density

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 10


def drawings(table: pa.Table, ranker: Ranker) -> Iterator[tuple[str, Figure]]:
    """File name and figure of everything worth drawing about a day's predictions and the ranker that they led to."""
    if table.num_rows:
        yield "auc_by_hour.png", by_hour(table)
        yield "calibration.png", calibration(as_predictions(table))
    sigmas = learned_sigmas(ranker)
    if sigmas:
        yield "kernel.png", kernel(sigmas)


def by_hour(table: pa.Table) -> Figure:
    """AUC and UAUC of each local hour; hours with one label only are left out."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    hours = table["local_hour"].to_numpy()
    data = as_predictions(table)
    for name in ("auc", "uauc"):
        by_hour_of_day = [(h, METRICS[name](data.some(hours == h)).value) for h in range(24) if (hours == h).any()]
        known = [(h, v) for h, v in by_hour_of_day if np.isfinite(v)]
        axes.plot([h for h, _ in known], [v for _, v in known], marker="o", ms=3, label=name.upper())
    axes.set(xlabel="local hour", ylabel="tested before trained on", xlim=(-0.5, 23.5))
    axes.legend(frameon=False)
    return figure


def calibration(data: Predictions) -> Figure:
    """Share of positives beside the mean prediction, in tenths of the samples by prediction."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4, 4), layout="constrained")
    groups = np.array_split(np.argsort(data.scores, kind="stable"), min(BINS, len(data)))
    points = np.array([(data.scores[g].mean(), data.labels[g].mean()) for g in groups])
    limit = float(points.max()) * 1.05
    axes.plot([0, limit], [0, limit], color="#b8c0ca", lw=1)
    axes.plot(points[:, 0], points[:, 1], marker="o")
    axes.set(xlabel="mean prediction", ylabel="share of positives")
    return figure


def learned_sigmas(ranker: Ranker) -> dict[str, float]:
    """Attribute → σ in hours, where the module trains any."""
    sigmas: dict[str, float] = {}
    names = [*ranker.facets, "item"]
    for name, weight in ranker.time.named_parameters():
        if name == "log_sigma" and weight.requires_grad:
            rows = weight.detach().exp().reshape(-1, weight.shape[-1]).tolist()
            owners = ("", ", everybody")[: len(rows)]
            sigmas |= {
                f"{n}{o}": s for o, row in zip(owners, rows, strict=True) for n, s in zip(names, row, strict=False)
            }
    return sigmas


def kernel(sigmas: dict[str, float]) -> Figure:
    """The Gaussian windows, and the paper's of 1 h for comparison."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    gap = torch.linspace(-6, 6, 241)
    axes.plot(gap, normal_density(gap, 1.0), color="#b8c0ca", lw=3, label="the paper's, σ 1 h")
    for name, sigma in sigmas.items():
        axes.plot(gap, normal_density(gap, sigma), label=f"{name}, σ {sigma:.2f} h")
    axes.set(xlabel="hours from now", ylabel="weight")
    axes.legend(frameon=False, fontsize=8)
    return figure
