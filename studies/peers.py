"""The platform's ranker against LightGBM, logistic regression and torch-rechub's models, on the same rows and features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.documents import JsonObject
from core.page_template import words
from evaluation.metrics import JUDGED
from studies.base import STRONGER
from studies.charts import forest
from studies.lab import Lab, ScoringRun
from studies.log import Changes
from studies.paired import SHOWN, Figure, Panel, as_json
from studies.peer_models import require_libraries
from studies.peer_runs import PEERS, PeerRun
from studies.replay import Run
from studies.study import Section, Study

METRICS_OF_PEERS = (*SHOWN, "logloss")
TITLES = {**JUDGED, "logloss": "log-loss"}
TIME_MODULES = ("none", "gaussian_clock", "matched_clock")
BASES: dict[str, Changes] = {
    "": {},
    ", stronger base": STRONGER,
    ", stronger base, averaged": {**STRONGER, "average_hours": 6.0},
}
"""Options of our rankers by what they add to a time module's name. The half-life was chosen by the rule of the study
``averaging`` for the stronger base on KuaiRand's days from 2 to 4 May, before those that are reported."""
STATIC = tuple(name for name in PEERS if name != "logistic regression")
"""Peers that are run static as well."""
WITHIN = "session_auc"
TEXT = (
    "The platform's ranker is tested on each hour before it is trained on it: by itself, with the stronger base, and with it scored \
by averaged weights. Its peers are \
fitted to everything before the evaluated time, with settings chosen on its last fifth: static ones stay so, daily ones learn every 24 \
hours (LightGBM and the logistic regression from the beginning, the others by one pass over the new day). All have the mapping's \
columns; peers have as-of-the-hour rates and counts of each value, of the user with each attribute of the item, and of these by time \
of day. Sessions are users' hours. Means over the seeds; intervals by user, paired, seeds included."
)

Runs = Mapping[str, Sequence[ScoringRun]]


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    require_libraries()
    ours, peers = our_runs(lab.seed_numbers), peer_runs(lab.seed_numbers)
    logs = lab.logs()
    lab.run((log, run_) for log in logs for runs in (ours, peers) for runs_of in runs.values() for run_ in runs_of)
    panels = {log.title: Panel(lab, log) for log in logs}
    figures = {title: measure(panel, ours, peers) for title, panel in panels.items()}
    conclusion = " ".join(conclude(title, log) for title, log in figures.items())
    results = {
        "seeds": lab.seed_numbers,
        "logs": {title: log.as_json() for title, log in figures.items()},
        "best_peer": next(iter(figures.values())).against_best_peer,
    }
    study = Study(lab.settings, "peers", lab.source)
    sections = [_section(title, log) for title, log in figures.items()]
    return conclusion, str(study.write(conclusion, sections, results, lab.command("peers")))


def our_runs(seeds: Sequence[int]) -> dict[str, list[Run]]:
    """The platform's rankers, streaming: each time module with each of ``BASES``."""
    return {
        f"{m}{base}": [Run(m, seed, changes) for seed in seeds] for base, changes in BASES.items() for m in TIME_MODULES
    }


def peer_runs(seeds: Sequence[int]) -> dict[str, list[PeerRun]]:
    """The models of other libraries."""
    runs = {f"{peer}, static": [PeerRun(peer, seed, "static") for seed in seeds] for peer in STATIC}
    return runs | {f"{peer}, daily": [PeerRun(peer, seed, "daily") for seed in seeds] for peer in PEERS}


@dataclass(frozen=True)
class PeerFigures:
    """Figures on one log.

    Attributes:
        values: ranker → metric → value.
        best: our best ranker by AUC; ``best_peer``: the best of the others.
        best_less: ranker → metric → our best less it.
    """

    values: dict[str, dict[str, Figure]]
    best: str
    best_peer: str
    best_less: dict[str, dict[str, Figure]]

    @property
    def against_best_peer(self) -> JsonObject:
        """Our best ranker less the best peer: AUC over everything, and within users' hours."""
        gaps = self.best_less[self.best_peer]
        sides = {
            side: {"difference": gaps[m].value, "interval": list(gaps[m].interval)}
            for side, m in (("auc", "auc"), ("within", WITHIN))
        }
        return {"name": self.best_peer, "ours": self.best, **sides}

    def as_json(self) -> JsonObject:
        """The content of ``results.json`` for the log."""
        figures = as_json({"values": self.values, "best_less": self.best_less})
        return {**figures, "best": self.best, "best_peer": self.against_best_peer}


def measure(panel: Panel, ours: Runs, peers: Runs) -> PeerFigures:
    """Values of all, and our best less each other."""
    everything = {**ours, **peers}
    values = {name: {m: panel.value(runs, m) for m in METRICS_OF_PEERS} for name, runs in everything.items()}
    best, best_peer = (max(names, key=lambda name: values[name]["auc"].value) for names in (ours, peers))
    less = {
        name: {m: panel.gap(runs, ours[best], m) for m in METRICS_OF_PEERS}
        for name, runs in everything.items()
        if name != best
    }
    return PeerFigures(values, best, best_peer, less)


def conclude(title: str, figures: PeerFigures) -> str:
    """How our best ranker compares with the best peer, in a sentence."""
    gaps = figures.best_less[figures.best_peer]
    auc, within = gaps["auc"], gaps[WITHIN]
    return (
        f"{title}: {words(figures.best)} is {_compared(auc)} the best of its peers, {figures.best_peer}, in AUC "
        f"({auc.signed}) and {_compared(within)} it within users' hours ({within.signed})."
    )


def _compared(gap: Figure) -> str:
    return "better than" if gap.above else "worse than" if gap.interval[1] < 0 else "not separable from"


def _section(title: str, figures: PeerFigures) -> Section:
    less, best = figures.best_less, words(figures.best)
    rows = tuple(
        (
            words(name),
            *(f"{of[m].value:.4f}" for m in METRICS_OF_PEERS),
            *(less[name][m].signed if name in less else "" for m in METRICS_OF_PEERS),
        )
        for name, of in figures.values.items()
    )
    columns = ("", *TITLES.values(), *(f"{best} less it, {t}" for t in TITLES.values()))
    sides = {f"{JUDGED[m]}, {best} less it": {n: gaps[m] for n, gaps in less.items()} for m in ("auc", WITHIN)}
    return Section(
        title, TEXT, columns, rows, forest(sides, f"{title}: the best ranker less each other, 95 % intervals")
    )
