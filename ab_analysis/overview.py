"""All experiments on one page: the status of each, and what they add up to."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

from ab_analysis.inference import shrink
from core.files import read_json
from core.page_template import write_page
from core.settings import Settings

PAGE = """
<p class="soft">Every experiment of '{{ source }}', by its latest report.</p>
<section><h2>Experiments</h2>{% if rows %}<div class="scroll"><table><thead><tr>
<th>experiment</th><th>owner</th><th>from</th><th>to</th>
<th>users</th><th>as of</th><th>verdict</th><th>metric</th><th>lift</th>
<th title="One look, one comparison">interval</th></tr></thead><tbody>
{% for r in rows %}<tr><td><a href="{{ r.link }}" title="{{ r.hypothesis }}">{{ r.name }}</a></td><td>{{ r.owner }}</td>
<td>{{ r.start }}</td>
<td>{{ r.end or "open" }}</td><td>{{ "{:,}".format(r.users) }}</td><td>{{ r.until }}</td>
<td class="{{ {'ship': 'good', 'stop': 'bad', 'no_conclusion': 'bad'}.get(r.verdict, '') }}">{{ r.verdict|words }}</td>
<td>{{ r.metric|words }}</td><td>{{ r.lift|percent }}</td><td>{{ r.low|percent }} to {{ r.high|percent }}</td></tr>
<tr><td colspan="10" class="soft" style="text-align:left; white-space:normal">{{ r.sentence }}</td></tr>{% endfor %}</tbody></table></div>
{% else %}<p class="lead">The log of '{{ source }}' holds no experiment that was reported.</p>
<p>To analyze one, log who met which variant (see <em>exposures</em> in the mapping file) and describe it in
<code>{{ folder }}</code>; <code>clock ab init</code> prints a commented file.</p>{% endif %}</section>
<section><h2>Together</h2><ul>
<li>{{ meta.ended }} of {{ meta.experiments }} experiments have ended; {{ meta.ship }} to ship, {{ meta.stop }} to stop,
{{ meta.no_effect }} without an effect, {{ meta.no_conclusion }} without a conclusion.</li>
{% if meta.mean_lift is not none %}<li>Mean lift of the first primary metric {{ meta.mean_lift|percent }} as measured.
{% if meta.experiments > 2 and meta.ship %}What is shipped was selected for its lift, which overstates it: shrunk toward the mean of all,
the shipped ones have {{ meta.shipped_shrunk|percent }}
instead of {{ meta.shipped|percent }}.{% endif %}</li>{% endif %}
{% if meta.covered_of %}<li>Calibration: of {{ meta.covered_of }} effects with a known truth, {{ meta.covered }} lie in their interval
(expected {{ meta.level|share }}).</li>{% endif %}
{% if meta.aa_of %}<li>A/A: {{ meta.aa_failed }} of {{ meta.aa_of }} experiments differed before they began.</li>{% endif %}</ul></section>
"""


def write_overview(settings: Settings) -> Path:
    """Write ``reports/ab/index.html`` from the latest report of every experiment."""
    root = settings.reports_dir / "ab"
    latest = [content for folder in sorted(root.glob("*/")) if (content := _latest(folder))]
    rows = [_row(content) for content in latest]
    path = root / "index.html"
    write_page(
        path,
        "Experiments",
        PAGE,
        home="../index.html",
        source=settings.source,
        rows=rows,
        meta=_together(latest, rows),
        folder=str(settings.experiments_dir),
    )
    return path


def _latest(folder: Path) -> dict[str, Any] | None:
    """The final report if there is one, else the latest."""
    final = folder / "final.json"
    dated = sorted(p for p in folder.glob("*.json") if p.stem not in {"registered", "final"})
    path = final if final.exists() else dated[-1] if dated else None
    return (
        None if path is None else {**read_json(path), "link": f"{folder.name}/{path.stem}.html", "final": path == final}
    )


def _row(content: dict[str, Any]) -> dict[str, Any]:
    about, decision = content["about"], content["decision"]
    result = _deciding(content)
    low, high = result["rel_effect_ci"] if result else (None, None)
    return {
        "name": content["experiment"], "link": content["link"], "hypothesis": about["hypothesis"], "owner": about["owner"],
        "start": about["start"][:10], "end": about["end"], "until": content["until"], "users": sum(content["users"].values()),
        "verdict": decision["verdict"], "sentence": decision["sentence"], "metric": result["metric"] if result else "",
        "lift": result["rel_effect"] if result else None, "low": low, "high": high,
    }  # fmt: skip


def _deciding(content: dict[str, Any]) -> dict[str, Any] | None:
    """Headline row of the first primary metric, of the variant that the decision names."""
    first, variant = content["about"]["primary"][0], content["decision"]["variant"]
    rows = [r for r in content["results"] if r["headline"] and r["metric"] == first]
    row: dict[str, Any] | None = next((r for r in rows if r["variant"] == variant), rows[0] if rows else None)
    return row


def _together(latest: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    verdicts = [r["verdict"] for r in rows]
    with_lift = [
        (r, d) for r, c in zip(rows, latest, strict=True) if (d := _deciding(c)) and _finite(d["rel_effect_ci"])
    ]
    z = NormalDist().inv_cdf(0.975)
    lifts = [d["rel_effect"] for _, d in with_lift]
    shrunk, _ = shrink(lifts, [(d["rel_effect_ci"][1] - d["rel_effect_ci"][0]) / 2 / z for _, d in with_lift])
    shipped = [n for n, (r, _) in enumerate(with_lift) if r["verdict"] == "ship"]
    with_truth = [
        (r["truth"], r["rel_effect_ci"])
        for c in latest
        for r in c["results"]
        if r["headline"] and r["truth"] is not None and _finite(r["rel_effect_ci"])
    ]
    aa = [k for c in latest for k in c["checks"] if k["name"] == "pre-period" and k["p_value"] is not None]
    return {
        "experiments": len(rows), "ended": sum(c["final"] for c in latest),
        **{v: verdicts.count(v) for v in ("ship", "stop", "no_effect", "no_conclusion")},
        "mean_lift": _mean(lifts), "shipped": _mean([lifts[n] for n in shipped]),
        "shipped_shrunk": _mean([shrunk[n].effect for n in shipped]),
        "covered": sum(ci[0] <= t <= ci[1] for t, ci in with_truth), "covered_of": len(with_truth), "level": 0.95,
        "aa_of": len(aa), "aa_failed": sum(k["level"] == "fail" for k in aa),
    }  # fmt: skip


def _finite(interval: Any) -> bool:
    return interval is not None and all(v is not None and math.isfinite(v) for v in interval)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
