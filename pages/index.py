"""The first page of a source: how it is, and a link to every report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from core.files import read_json
from core.hours import Hour
from core.page_table import Cell, Column, Row, Table
from core.page_template import LIVE_BEGIN, LIVE_END, words, write_page
from core.settings import Settings
from pages.home import Freshness, count, look, read_decisions

TEMPLATE = Path(__file__).with_name("home.html")
STYLE = """
.halves { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 7fr); gap: 1rem; margin: 1rem 0 }
.kinds { columns: 26rem; column-gap: 1rem } .kinds section { break-inside: avoid; margin: 0 0 1rem }
.halves section { margin: 0; min-width: 0 } .banner h2 { margin-bottom: .3rem }
.notices { margin: 0; display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1rem }
.notices dt { margin: 0; font-weight: 600 } .notices dd { margin: 0; overflow-wrap: anywhere }
.links { list-style: none; margin: 0; padding: 0 } .links li { margin: .3rem 0; overflow-wrap: anywhere }
details .links { margin-top: .4rem } .links .soft { display: block; font-size: .9rem }
@media (max-width: 52rem) { .halves { grid-template-columns: minmax(0, 1fr) }
  .notices { grid-template-columns: 1fr; gap: 0 } .notices dd { margin-bottom: .5rem } }
"""
AGE = Markup("""<script>
"use strict";
(() => { // how old the page is, as far as the reader's clock can be trusted
  const time = document.getElementById("written");
  const hours = (Date.now() - Date.parse(time.dateTime)) / 3600e3;
  const [unit, each] = hours < 1 ? ["minute", 1 / 60] : hours < 48 ? ["hour", 1] : ["day", 24];
  const count = Math.round(hours / each);
  if (hours >= 0) time.after(` (${count} ${unit}${count === 1 ? "" : "s"} ago)`);
})();
</script>""")
SHOWN = 6
"""Pages of a kind that are listed at once; up to ``FOLDED`` older ones fold away."""
FOLDED = 60


@dataclass(frozen=True)
class Link:
    """A page, with what it says in short."""

    text: str
    link: str
    note: str = ""


@dataclass(frozen=True)
class LinkGroup:
    """The pages of one kind; those of ``more`` fold away under ``fold``."""

    title: str
    links: list[Link]
    more: list[Link] = field(default_factory=list)
    fold: str = "earlier ones"


def write_index(settings: Settings) -> str:
    """Write the first page; returns its path."""
    now = datetime.now(UTC)
    path = settings.reports_dir / "index.html"
    page = look(settings, Hour.of(now))
    write_page(
        path, "Interest Clock", TEMPLATE.read_text(encoding="utf-8"), style=STYLE, source=settings.source, page=page,
        written=f"{now:%Y-%m-%dT%H:%MZ}", scripts=(AGE,), live=(LIVE_BEGIN, settings.live_reports_url, LIVE_END),
        freshness=freshness_table(page.freshness), groups=list(_groups(settings)), interfaces=interfaces(settings),
    )  # fmt: skip
    return str(path)


def freshness_table(rows: list[Freshness]) -> Table:
    """Each stage with the hour up to which it holds and the hours that it is behind."""
    columns = [
        Column("stage"),
        Column("holds until (UTC)"),
        Column("behind", "Hours that it lacks of the events, or the events of now"),
    ]

    def behind(row: Freshness) -> Cell | str:
        if row.behind is None:
            return Cell("none yet", "soft")
        text = "up to date" if row.behind == 0 else f"{row.behind:,} h"
        return Cell(text, "bad" if row.is_late else "" if row.allowed is None else "good")

    return Table(
        columns, [Row([Cell(row.what, link=row.link), row.until.key if row.until else "", behind(row)]) for row in rows]
    )


def _groups(settings: Settings) -> Iterator[LinkGroup]:
    root = settings.reports_dir
    yield _models(root)
    if (root / "loop.html").exists():
        yield LinkGroup("Closed loop", [Link("offline gain, online gain, truth", "loop.html")])
    if (root / "ab" / "index.html").exists():
        yield _experiments(root)
    yield _clocks(root, settings.clock_lookup_url)
    drift = [
        Link(path.stem, f"drift/{path.stem}.html", count(len(read_json(path)["drifted"]), "column") + " drifted")
        for path in sorted((root / "drift").glob("*.json"), reverse=True)[:FOLDED]
    ]
    yield LinkGroup("Data drift", drift[:SHOWN], drift[SHOWN:])


def _models(root: Path) -> LinkGroup:
    """The model's page, then the gate's decisions; those that only wait fold away."""
    page = [Link("champion, variants, moves, drift", "model.html")] if (root / "model.html").exists() else []
    decisions = read_decisions(root)
    links = {d.hour: Link(f"gate at {d.hour}", d.link, f"{words(d.verdict)}: {d.reason}") for d in decisions}
    shown = [d.hour for d in decisions if d.verdict != "wait"][:SHOWN]
    folded = [link for hour, link in links.items() if hour not in shown]
    return LinkGroup("Models", [*page, *(links[hour] for hour in shown)], folded, "more decisions")


def _experiments(root: Path) -> LinkGroup:
    """The overview, then the newest page of each experiment with its decision; earlier ones fold away."""
    newest, earlier = [Link("all experiments", "ab/index.html")], []
    for folder in sorted((root / "ab").glob("*/")):
        pages = sorted(folder.glob("20*.html"), reverse=True)[:FOLDED]
        links = [Link(f"{folder.name} as of {path.stem}", path.relative_to(root).as_posix()) for path in pages]
        if pages:
            sentence = read_json(pages[0].with_suffix(".json"))["decision"]["sentence"]
            newest.append(replace(links[0], note=sentence))
        earlier += links[1:]
    return LinkGroup("Experiments", newest, earlier)


def _clocks(root: Path, lookup: str) -> LinkGroup:
    folder = root / "clocks"
    if not (folder / "index.html").exists():
        return LinkGroup("Interest clocks", [])
    users = [(path, str(read_json(path)["user"])) for path in sorted(folder.glob("*.json"))]
    links = [Link(f"user {user}", f"clocks/{path.stem}.html") for path, user in users if user][:SHOWN]
    everybody = [Link("everybody", f"clocks/{path.stem}.html") for path, user in users if not user]
    anybody = Link("any user", lookup, "drawn by Airflow's server for those who may see it")
    drawn = Link("all clocks that were drawn, by the log's id", "clocks/index.html")
    return LinkGroup("Interest clocks", [drawn, *everybody, *links, anybody])


def interfaces(settings: Settings) -> list[tuple[str, str]]:
    """Name and address of what runs beside the pages; in production the proxy's login page leads there."""
    if settings.in_production:
        return [("Airflow", settings.public_url), ("MLflow", f"{settings.public_url}/mlflow/")]
    ports = {"Airflow": settings.airflow_port, "MLflow": settings.mlflow_port, "Feast": settings.feast_port}
    return [(name, f"http://127.0.0.1:{port}") for name, port in ports.items()]
