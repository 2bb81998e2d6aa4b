"""Does the clock help every kind of ranker? The paper arms three production rankers with it; here, four."""

from __future__ import annotations

from core.page_template import words
from evaluation.metrics import JUDGED
from studies.charts import forest
from studies.lab import Lab
from studies.log import Changes
from studies.paired import COMPARED, COMPARED_TITLES, SHOWN, Figure, Panel, as_json
from studies.replay import Run
from studies.study import Section, Study
from studies.tables import join_names

BASELINES: dict[str, Changes] = {
    "MLP": {"cross_layers": 0},
    "DCN-v2": {},
    "DCN-v2 with MMoE": {"experts": 4},
    "DCN-v2 with DIN": {"sequence": "din"},
}
ARMED = ("none", "gaussian_clock", "matched_clock")
GAINS = {"the paper's clock": ("none", "gaussian_clock"), "ours over the paper's": ("gaussian_clock", "matched_clock")}
TEXT = "Each ranker without time, with the paper's clock, and with ours, hour by hour. DCN-v2 (cross network beside an MLP) is \
the platform's default; MMoE gives every behavior its own gate over four MLPs; DIN attends over the user's recent behaviors."


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    runs = {(b, v): [Run(v, seed, c) for seed in lab.seed_numbers] for b, c in BASELINES.items() for v in ARMED}
    logs = lab.logs()
    lab.run((log, run_) for log in logs for runs_of in runs.values() for run_ in runs_of)
    figures, sections, sentences = {}, [], []
    for log in logs:
        panel = Panel(lab, log)
        values = {b: {v: {m: panel.value(runs[b, v], m) for m in SHOWN} for v in ARMED} for b in BASELINES}
        gains = {
            what: {b: {m: panel.gap(runs[b, less], runs[b, more], m) for m in SHOWN} for b in BASELINES}
            for what, (less, more) in GAINS.items()
        }
        figures[log.title] = {"values": values, "gains": gains}
        sentences.append(f"{log.title}: {'; '.join(_where(what, by) for what, by in gains.items())}.")
        rows = tuple(
            (
                *(b, JUDGED[metric]),
                *(f"{values[b][v][metric].value:.4f}" for v in ARMED),
                *(by[b][metric].signed for by in gains.values()),
            )
            for b in BASELINES
            for metric in SHOWN
        )
        columns = ("ranker", "", *(f"with {words(v)}" for v in ARMED), *(f"gain of {g}" for g in gains))
        sides = {f"AUC, gain of {what}": {b: gain["auc"] for b, gain in by.items()} for what, by in gains.items()}
        charts = forest(sides, f"{log.title}: gain in AUC by ranker, with 95 % intervals")
        sections.append(Section(log.title, TEXT, columns, rows, charts))
    study = Study(lab.settings, "baselines", lab.source)
    conclusion = " ".join(sentences)
    results = {"logs": {t: as_json(f) for t, f in figures.items()}}
    return conclusion, str(study.write(conclusion, sections, results, lab.command("baselines")))


def _where(gain_name: str, gains: dict[str, dict[str, Figure]]) -> str:
    better = [b for b, gain in gains.items() if all(gain[m].above for m in COMPARED)]
    partly = [b for b, gain in gains.items() if b not in better and any(gain[m].above for m in COMPARED)]
    without_gain = [b for b in gains if b not in better and b not in partly]
    if len(better) == len(gains):
        return f"{gain_name}: up in {COMPARED_TITLES} with every ranker"
    parts = [f"up in {COMPARED_TITLES} with {join_names(better)}"] if better else []
    parts += [f"in one of the two with {join_names(partly)}"] if partly else []
    parts += [f"no gain established with {join_names(without_gain)}"] if without_gain else []
    return f"{gain_name}: {', '.join(parts)}"
