"""A study of options of the ranker: the same log, the same time modules, each option against the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from core.documents import JsonObject
from core.page_template import words
from studies.lab import Lab
from studies.log import Changes, Log
from studies.paired import SHOWN, Panel, as_json
from studies.replay import Run
from studies.study import Section, Study
from studies.tables import against_base, verdict


class Supplement(NamedTuple):
    """What a study shows of a log beside the comparison: a section of its page, and the figures in it."""

    section: Section
    results: JsonObject


def compare_options(
    lab: Lab,
    name: str,
    options: Mapping[str, Changes],
    modules: Sequence[str],
    text: str,
    supplement: Callable[[Log], Supplement] | None = None,
) -> tuple[str, str]:
    """Run time modules with each option; every difference is paired with the first option, on the same samples.

    Args:
        lab: has the logs and the runs.
        name: of the study.
        options: title → values that differ from the ranker's config file; the first is what the others are compared with.
        modules: time modules.
        text: of the sections.
        supplement: what else is shown of a log.

    Returns:
        The conclusion and the path of the page.
    """
    base = next(iter(options))
    runs = {m: {o: [Run(m, seed, c) for seed in lab.seed_numbers] for o, c in options.items()} for m in modules}
    logs = lab.logs()
    lab.run((log, run) for log in logs for by in runs.values() for of in by.values() for run in of)
    sections, sentences, results, more = [], [], {}, {}
    for log in logs:
        panel = Panel(lab, log)
        for module, by in runs.items():
            title = f"{log.title}, {words(module)}"
            values = {option: {m: panel.value(of, m) for m in SHOWN} for option, of in by.items()}
            gaps = {
                option: {m: panel.gap(by[base], of, m) for m in SHOWN} for option, of in by.items() if option != base
            }
            results[title] = as_json({"values": values, "gaps": gaps})
            sentences.append(f"{title}: {verdict(gaps, base)}.")
            sections.append(against_base(title, text, values, gaps, base))
        if supplement is not None:
            shown = supplement(log)
            sections.append(shown.section)
            more[log.title] = shown.results
    conclusion = " ".join(sentences)
    study = Study(lab.settings, name, lab.source)
    content = {"seeds": lab.seed_numbers, "logs": results, **({"extra": more} if more else {})}
    return conclusion, str(study.write(conclusion, sections, content, lab.command(name)))
