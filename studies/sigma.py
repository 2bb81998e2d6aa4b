"""How wide should the Gaussian be? The paper takes 1 h and leaves the choice open; also by kind of user."""

from __future__ import annotations

import numpy as np

from studies.charts import curves
from studies.lab import Lab
from studies.log import Changes
from studies.paired import SHOWN, Figure, Panel, as_json
from studies.replay import Run
from studies.study import Section, Study
from studies.tables import against_base, verdict

SIGMAS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 6.0)
FEWEST = 5
"""Events that a user needs to be called regular or not."""
PAPER, LEARNED = "σ = 1 h", "learned σ"


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    changes: dict[str, Changes] = {f"σ = {s:g} h": {"sigma_hours": s} for s in SIGMAS}
    changes[LEARNED] = {"sigma_hours": 1.0, "learn_sigma": True}
    runs = {
        name: [Run("gaussian_clock", seed, change) for seed in lab.seed_numbers] for name, change in changes.items()
    }
    logs = lab.logs()
    lab.run((log, run_) for log in logs for runs_of in runs.values() for run_ in runs_of)
    figures, sections, sentences = {}, [], []
    for log in logs:
        panel = Panel(lab, log)
        values = {n: {m: panel.value(runs_of, m) for m in SHOWN} for n, runs_of in runs.items()}
        gaps = {n: {m: panel.gap(runs[PAPER], runs_of, m) for m in SHOWN} for n, runs_of in runs.items() if n != PAPER}
        segment_masks = segments(panel)
        by_segment = {
            segment: {n: panel.gap(runs[PAPER], runs_of, "auc", among) for n, runs_of in runs.items() if n != PAPER}
            for segment, among in segment_masks.items()
        }
        figures[log.title] = {"values": values, "gaps": gaps, "segments": by_segment}
        sentences.append(f"{log.title}: {verdict(gaps, PAPER)}.{_by_segment(by_segment)}")
        sections.append(against_base(log.title, "The paper's clock, streaming; only σ differs.", values, gaps, PAPER))
        if not by_segment:
            continue
        lines = {
            k: [(s, g[f"σ = {s:g} h"]) if s != 1 else (s, Figure(0, (0, 0), 0)) for s in SIGMAS]
            for k, g in by_segment.items()
        }
        chart = curves(
            lines, "σ, hours", "AUC less that of σ = 1 h", f"{log.title}: AUC by σ and kind of user", log=True
        )
        rows = tuple((n, *(by_segment[k][n].signed for k in by_segment)) for n in runs if n != PAPER)
        text = "AUC less that of σ = 1 h. Users are split by what they did before the evaluated time: how many samples they \
have, and how regular their hours are (entropy of the local hour), each at the terciles. Intervals are of one comparison each."
        sections.append(Section(f"{log.title}, by kind of user", text, ("", *by_segment), rows, [chart]))
    study = Study(lab.settings, "sigma", lab.source)
    conclusion = " ".join(sentences)
    page = study.write(
        conclusion, sections, {"logs": {t: as_json(f) for t, f in figures.items()}}, lab.command("sigma")
    )
    return conclusion, str(page)


def _by_segment(by_segment: dict[str, dict[str, Figure]]) -> str:
    better = [f"{n} for {segment}" for segment, gaps in by_segment.items() for n, gap in gaps.items() if gap.above]
    return (
        f" By kind of user, better than σ = 1 h: {', '.join(better)}."
        if better
        else " For no kind of user is another σ better."
    )


def segments(panel: Panel) -> dict[str, np.ndarray]:
    """Users by activity and regularity before the evaluated time; a mask over the samples each."""
    frame = panel.frame
    before = (frame["hour"] < panel.first) & (frame["label"] > 0)
    users, user_index = np.unique(frame["user"], return_inverse=True)
    hours = np.zeros((len(users), 24))
    np.add.at(hours, (user_index[before], frame["local_hour"][before].astype(np.int64)), 1)
    count = hours.sum(axis=1)
    share = hours / np.maximum(count, 1)[:, None]
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
    seen = count >= FEWEST
    if not seen.any():
        return {}
    activity, spread = np.quantile(count[seen], [1 / 3, 2 / 3]), np.quantile(entropy[seen], [1 / 3, 2 / 3])
    masks = {
        "rare users": seen & (count <= activity[0]),
        "frequent users": seen & (count > activity[1]),
        "regular users": seen & (entropy <= spread[0]),
        "irregular users": seen & (entropy > spread[1]),
    }
    return {name: mask[user_index] for name, mask in masks.items()}
