"""The page that links every report of a source."""

from __future__ import annotations

from pathlib import Path

from core.files import read_json
from core.page_template import write_page
from core.settings import Settings

INDEX = """
<p class="soft">Source <strong>{{ source }}</strong>. Everything here is written by the daily and hourly DAGs.
{% for name, link in interfaces %}{% if loop.first %}Live: {% endif %}<a href="{{ link }}">{{ name }}</a>
{%- if not loop.last %}, {% endif %}{% endfor %}</p>
{% for title, rows in groups %}<section><h2>{{ title }}</h2>{% if rows %}<ul>
{% for text, link, note in rows %}<li><a href="{{ link }}">{{ text }}</a> <span class="soft">{{ note }}</span></li>{% endfor %}</ul>
{% else %}<p class="soft">Nothing yet.</p>{% endif %}</section>{% endfor %}
"""


def write_index(settings: Settings) -> str:
    """The page that links every report."""
    root = settings.reports_dir
    groups = []
    if (root / "model.html").exists():
        groups.append(("Model", [("champion, variants, moves, drift", "model.html", "")]))
    if (root / "loop.html").exists():
        groups.append(("Closed loop", [("offline gain, online gain, truth", "loop.html", "")]))
    if (root / "ab" / "index.html").exists():
        groups.append(("Experiments", _experiment_rows(root)))
    for title, pattern in (
        ("Promotion gate", "gate/*.html"),
        ("Data drift", "drift/*.html"),
        ("Interest clocks", "clocks/*.html"),
    ):
        rows = []
        for path in sorted(root.glob(pattern), reverse=True)[:60]:
            data = path.with_suffix(".json")
            content = read_json(data) if data.exists() else {}
            note = content.get("reason") or (
                f"{len(content['drifted'])} columns drifted" if "drifted" in content else ""
            )
            rows.append((path.stem, str(path.relative_to(root)), note))
        groups.append((title, rows))
    write_page(
        root / "index.html",
        "Interest Clock reports",
        INDEX,
        source=settings.source,
        groups=groups,
        interfaces=_interfaces(settings),
    )
    return str(root / "index.html")


def _interfaces(settings: Settings) -> list[tuple[str, str]]:
    """Name and address of what runs beside the pages; in production the proxy's login page leads there."""
    if settings.in_production:
        return [("Airflow", settings.public_url), ("MLflow", f"{settings.public_url}/mlflow/")]
    ports = {"Airflow": settings.airflow_port, "MLflow": settings.mlflow_port, "Feast": settings.feast_port}
    return [(name, f"http://127.0.0.1:{port}") for name, port in ports.items()]


def _experiment_rows(root: Path) -> list[tuple[str, str, str]]:
    """The overview, then the latest pages of each experiment with their decisions."""
    rows = [("all experiments", "ab/index.html", "")]
    for folder in sorted((root / "ab").glob("*/")):
        for path in sorted(folder.glob("20*.html"), reverse=True)[:14]:
            sentence = read_json(path.with_suffix(".json"))["decision"]["sentence"]
            rows.append((f"{folder.name} as of {path.stem}", str(path.relative_to(root)), sentence))
    return rows
