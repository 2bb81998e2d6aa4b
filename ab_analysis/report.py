"""The report of an experiment: one self-contained page and its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ab_analysis.analysis import Analysis, analyze, verdict
from ab_analysis.experiment import Experiment
from ab_analysis.user_table import AGGREGATES, UserTable, user_table
from core.files import write_json
from core.hours import Hour
from core.pages import svg, write_page
from core.settings import Settings
from events.store import EventStore

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = """
<p class="soft">{{ experiment.hypothesis }} Users and events before {{ analysis.until }} UTC.
Owner: {{ experiment.owner or "nobody named" }}.</p>
<section class="banner {{ '' if analysis.warnings else 'calm' }}"><p class="lead"><strong>{{ verdict }}</strong></p>
{% for warning in analysis.warnings %}<p class="bad">{{ warning }}</p>{% endfor %}
{% if not analysis.warnings %}<p class="good">Sample ratio as planned (p = {{ "%.2f"|format(analysis.sample_ratio_p_value) }});
no user in two variants.</p>{% endif %}
<p class="soft">The intervals hold for one look at the end. Read daily, they make a false alarm more likely.</p></section>
<section><h2>Effects relative to {{ experiment.control }}</h2>{{ forest }}</section>
<section><h2>Figures</h2><div class="scroll"><table><thead><tr><th>metric</th><th>variant</th><th>method</th>
<th>{{ experiment.control }}</th><th>variant</th><th>effect</th><th>interval</th><th>p</th><th>variance saved</th>
{% if experiment.truth %}<th>true effect</th>{% endif %}</tr></thead><tbody>
{% for r in analysis.results %}<tr title="{{ definitions[r.metric] }}"><td>{{ r.metric|words }}</td>
<td>{{ r.variant }}</td><td>{{ r.method }}</td>
<td>{{ r.control|number(3) }}</td><td>{{ r.treatment|number(3) }}</td><td>{{ r.rel_effect|percent }}</td>
<td>{{ r.rel_effect_ci[0]|percent }} to {{ r.rel_effect_ci[1]|percent }}</td><td>{{ "%.3g"|format(r.p_value) }}</td>
<td>{{ "%.0f%%"|format(100 * r.variance_reduction) }}</td>
{% if experiment.truth %}<td>{{ r.truth|percent if r.truth is not none else "" }}</td>{% endif %}</tr>{% endfor %}
</tbody></table></div></section>
<section><h2>Day by day</h2>{{ daily }}</section>
<section><h2>Users</h2><p>{% for name, count in analysis.users.items() %}{{ name }}: {{ "{:,}".format(count) }} &nbsp; {% endfor %}
(of them {{ "{:,}".format(analysis.new_users) }} without events before the start).</p></section>
<section><h2>How it was computed</h2><p>The unit is the user. A metric sums a user's events from the
first exposure on; its covariate is the same sum over the {{ experiment.pre_days }} days before {{ experiment.start_time }}. <em>welch</em>
compares plain means,
<em>cuped</em> takes off what the covariate predicts (Deng et al. 2013). Relative intervals by the delta method (tea-tasting).</p>
<pre>{% for name, sql in definitions.items() %}{{ name }} = {{ sql }}
{% endfor %}</pre></section>
"""
EMPTY = """<section class="banner"><p class="lead">{{ reason }}</p>
<p>To analyse an experiment, log who met which variant (see <em>exposures</em> in the mapping file) and describe it in
<code>{{ folder }}</code>.</p></section>"""


def write_report(settings: Settings, experiment: Experiment, until: Hour) -> tuple[Analysis, Path]:
    """Analyse an experiment as of an hour and write its page and JSON, the same bytes for the same data.

    Raises:
        NotReadyError: nobody was exposed yet.
    """
    table = user_table(settings, EventStore(settings.events_dir), experiment, until)
    analysis = analyze(experiment, table)
    folder = settings.reports_dir / "ab" / experiment.name
    path = folder / f"{until.key}.html"
    write_json(folder / f"{until.key}.json", analysis.as_json())
    write_page(
        path, f"Experiment {experiment.name}", TEMPLATE, home="../../index.html", experiment=experiment,
        analysis=analysis, verdict=verdict(experiment, analysis), forest=_forest(experiment, analysis),
        daily=_daily(experiment, table), definitions=AGGREGATES,
    )  # fmt: skip
    return analysis, path


def write_no_experiment(settings: Settings) -> Path:
    """The page of a source whose log has no experiment."""
    path = settings.reports_dir / "ab" / "none.html"
    write_page(
        path, "No experiment", EMPTY, home="../index.html", folder=str(settings.experiments_dir),
        reason=f"The log of '{settings.source}' holds no experiment: no exposures were logged.",
    )  # fmt: skip
    return path


def _forest(experiment: Experiment, analysis: Analysis) -> Markup:
    import matplotlib.pyplot as plt

    shown = [r for r in analysis.results if r.rel_effect == r.rel_effect]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(shown) + 1))
    for at, r in enumerate(reversed(shown)):
        low, high = r.rel_effect_ci
        colour = "#14703c" if low > 0 else "#a4262c" if high < 0 else "#5a6675"
        width = 2.6 if r.method == "cuped" else 1.2
        axes.plot([100 * low, 100 * high], [at, at], color=colour, lw=width)
        axes.plot(100 * r.rel_effect, at, "o", color=colour, ms=5 if r.method == "cuped" else 3)
        if r.truth is not None:
            axes.plot(100 * r.truth, at, "D", mfc="none", mec="#1f5fa8", ms=7)
    axes.axvline(0, color="#1c2430", lw=0.8)
    several = len(experiment.variants) > 2
    names = [f"{r.metric.replace('_', ' ')}{f' ({r.variant})' if several else ''}, {r.method}" for r in reversed(shown)]
    axes.set_yticks(range(len(shown)), names)
    axes.set_xlabel("relative effect, %" + ("   (diamond: true effect)" if experiment.truth else ""))
    axes.spines[["top", "right", "left"]].set_visible(False)
    text = "; ".join(f"{n}: {r.rel_effect:+.2%}" for n, r in zip(names, reversed(shown), strict=True))
    return svg(figure, f"Relative effects with intervals. {text}", f"Lines are {experiment.confidence:.0%} intervals.")


def _daily(experiment: Experiment, table: UserTable) -> Markup:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(experiment.primary), figsize=(8, 2.8), squeeze=False)
    for axes, metric in zip(panels[0], experiment.primary, strict=True):
        for variant in experiment.variants:
            rows = table.daily.filter(pc.equal(table.daily["variant"], pa.scalar(variant)))
            per_user = pc.divide(rows[metric], pc.cast(rows["users"], "double"))
            axes.plot(rows["day"].to_pylist(), per_user.to_pylist(), marker="o", ms=3, label=variant)
        axes.set_title(f"{metric.replace('_', ' ')} per exposed user and day", fontsize=9)
        axes.tick_params(axis="x", rotation=45, labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].legend(frameon=False, fontsize=8)
    return svg(figure, "Primary metrics per exposed user and day, by variant", "The last day may be incomplete.")
