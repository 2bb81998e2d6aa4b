"""Pages of interest clocks: a user's or everybody's drawn as a clock, the list of those that were drawn, and clocks as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from core.charts import chart_scripts
from core.documents import JsonObject
from core.errors import NotReadyError
from core.files import read_json, write_json, write_text
from core.hours import DAY_HOURS, Hour
from core.page_table import Cell, Column, Row, Table
from core.page_template import INTERACTIVE, render_page, words, write_page
from core.settings import Settings
from events.forgotten import ForgottenList
from events.ids import log_ids
from feature_repo.retrieval import ClockFeatures
from feature_repo.segments import EVERYBODY, segment_clocks
from pages.clock_charts import LeadersView, leaders, scores_by_time
from pages.clock_colors import tone_style
from pages.clock_items import champion_scores
from pages.clock_tables import SENTENCES, changes_table, items_table, modules_table, segments_table, slots_table
from pages.clock_values import ClockSlot, DayClock, OtherClock, busiest_time, day_clocks
from pages.clock_view import clock_data, clock_page
from training.config import RankerConfig, load_ranker_config

EVERYONE = "everyone"
PAST_DAYS = {28: "four weeks ago", 21: "three weeks ago", 14: "two weeks ago", 7: "a week ago", 1: "a day ago"}
"""How long ago a clock is looked at again, as far as its change logs tell; the oldest first."""
FOLDER = Path(__file__).parent
SCRIPT = Markup("<script>{}</script>").format(Markup((FOLDER / "clock.js").read_text(encoding="utf-8")))  # noqa: S704 # nosec B704
INDEX = """
<section><p><label>Find a user by the id in the log: <input id="user" type="search" list="users" autocomplete="off"></label>
<datalist id="users">{% for name in names %}<option value="{{ name }}"></option>{% endfor %}</datalist></p>
<p><a href="{{ lookup }}" target="_blank" rel="noopener">The clock of any other user</a> is drawn for people who are logged in at
Airflow and whose role may see it. In a shell
<code aria-live="polite">clock features page <span id="asked">USER</span> --source {{ source }}</code> does.</p>
{{ table }}</section>
<script>
"use strict";
const field = document.getElementById("user");
field.addEventListener("input", () => {
  const quoted = `'${field.value.replaceAll("'", "'\\\\''")}'`;
  document.getElementById("asked").textContent = /^[\\w.-]*$/.test(field.value) ? field.value || "USER" : quoted;
  document.querySelectorAll("tbody tr").forEach((row) => {
    row.hidden = !row.cells[0].textContent.toLowerCase().includes(field.value.toLowerCase());
  });
});
</script>
"""


@dataclass(frozen=True)
class DrawnClock:
    """A page that was drawn, as the list of pages knows it.

    Attributes:
        user: id in the log; empty for everybody.
        events: in the clock.
        as_of: key of the clock's hour.
    """

    user: str
    events: int
    as_of: str


def write_clock_page(features: ClockFeatures, user: int | None, moment: str | None = None) -> Path:
    """Draw the clock of a user, or of everybody, as the online store holds it, and list it among the others.

    Args:
        features, user, moment: as of ``render_clock_page``.

    Returns:
        The page's path.

    Raises:
        NotReadyError: there are no clocks, or the user has none.
    """
    settings = features.settings
    path = settings.reports_dir / "clocks" / f"{EVERYONE if user is None else user}.html"
    html, drawn = render_clock_page(features, user, moment, reports="..")
    write_text(path, html)
    write_json(path.with_suffix(".json"), asdict(drawn))
    _write_list(path.parent, settings)
    if user is not None and ForgottenList(features.events.root).matcher().has(drawn.user):  # while the page was drawn
        remove_clock_pages(settings, [user])
        raise _no_events(features, f"User {drawn.user}", Hour.parse(drawn.as_of))
    return path


def render_clock_page(
    features: ClockFeatures, user: int | None, moment: str | None = None, *, reports: str | None = None
) -> tuple[str, DrawnClock]:
    """A page with the clock of a user, or of everybody, as the online store holds it.

    The page calls the user as the source's log does. A user's clock is compared with everybody's, and each with its own past.

    Args:
        features: of the source.
        user: the platform's number of the user; None for the population.
        moment: local time HH:MM at which the hand stands first; None: the middle of the busiest slot of the day.
        reports: address of the reports, for links to them; None: no links.

    Returns:
        The page as HTML, and what the list of pages knows of it.

    Raises:
        NotReadyError: there are no clocks, or the user has none, as one who was forgotten.
    """
    from training.time_modules.matched import SLOTS_PRIOR  # with torch, which other commands of this group do without

    at = features.clock.require_state().as_of
    name = "" if user is None else log_ids(features.events.root, "user", [user])[user]
    if user is not None and ForgottenList(features.events.root).matcher().has(
        name
    ):  # also while the removal is under way
        raise _no_events(features, f"User {name}", at)
    everybody = _slots(features, features.population(at))
    slots = everybody if user is None else _slots(features, features.get_clock([user], at))
    if not slots:
        raise _no_events(features, f"User {name}" if name else "Everybody", at)
    past = _past_clocks(features, user, at)
    segments = _segments(features) if user is None else []
    others = [*segments[1:], *past] if user is None else [OtherClock(EVERYBODY, everybody), *past]
    facets, config = features.facets, load_ranker_config(features.settings, "gaussian_clock")
    moment = moment or busiest_time(slots, config)
    days = day_clocks(facets, config, slots, everybody, others)
    page = clock_page(days, slots, config, moment, others)
    champion = None if user is None else champion_scores(features, user, at)
    items = champion.items if champion else []
    settings = features.settings
    html = render_page(
        f"Interest clock of user {name}" if name else "Interest clock of everybody",
        (FOLDER / "clock.html").read_text(encoding="utf-8"), style=(FOLDER / "clock.css").read_text(encoding="utf-8") + tone_style(),
        scripts=(INTERACTIVE, SCRIPT, chart_scripts(settings.var)), home=f"{reports}/index.html" if reports else None,
        clocks=f"{reports}/clocks" if reports else None, page=page, as_of=at,
        window_days=settings.window_days, everyone=user is None,
        data=asdict(clock_data(days, page, config, SLOTS_PRIOR, items)),
        champion=champion, items=items_table(items, moment) if items else None,
        scores=scores_by_time(items, page.minutes) if items else None,
        modules=modules_table(days, settings.variants, config, moment, SLOTS_PRIOR),
        sentences={v: SENTENCES[v] for v in settings.variants if v in SENTENCES},
        table=slots_table(facets, config, slots), changes=changes_table(facets, config, slots, past),
        change_charts=_leaders(days, config, [*past, OtherClock("now", slots)]) if past else [],
        segments=segments_table(facets, config, segments) if len(segments) > 1 else None,
        segment_charts=_leaders(days, config, segments) if len(segments) > 1 else [],
        history_from=features.clock.require_state().history_from,
    )  # fmt: skip
    return html, DrawnClock(name, page.events, at.key)


def _slots(features: ClockFeatures, rows: pa.Table) -> list[ClockSlot]:
    return [
        ClockSlot(
            row["slot"], row["events"], _hour(row["as_of"]),
            {f: list(zip(row[f"{f}_values"], row[f"{f}_scores"], strict=True)) for f in features.facets},
        )
        for row in rows.to_pylist()
        if row["events"] or any(row[f"{f}_values"] for f in features.facets)  # a thin slot may borrow all it has
    ]  # fmt: skip


def _hour(number: int | None) -> Hour | None:
    """The hour from whose start a slot's row holds; None for a slot that only borrows and has no row."""
    return None if number is None else Hour(number)


def _past_clocks(features: ClockFeatures, user: int | None, at: Hour) -> list[OtherClock]:
    """The clock as it was, at the hours of ``PAST_DAYS`` that the change logs tell."""
    since = features.clock.require_state().history_from
    hours = {name: hour for days, name in PAST_DAYS.items() if (hour := at - days * DAY_HOURS) >= since}
    if user is None:
        tables = {name: list(features.latest("population_clock", hour)) for name, hour in hours.items()}
    else:
        numbers = [hour.number for hour in hours.values()]
        keys = pa.table({"user_id": pa.array([user] * len(numbers), pa.int64()), "hour": pa.array(numbers, pa.int64())})
        slots = features.historical(keys).slots if hours else keys
        tables = {name: [slots.filter(pc.field("hour") == hour.number)] for name, hour in hours.items()}
    return [
        OtherClock(name, [slot for table in each for slot in _slots(features, table)], past=True)
        for name, each in tables.items()
    ]


def _segments(features: ClockFeatures) -> list[OtherClock]:
    """Everybody's clock, then those of segments."""
    return [
        OtherClock(segment.name, _slots(features, segment.rows), users=segment.users)
        for segment in segment_clocks(features.settings, features.events)
    ]


def _leaders(days: Sequence[DayClock], config: RankerConfig, clocks: Sequence[OtherClock]) -> list[LeadersView]:
    """For each facet and kind of day which value leads each hour of some clocks."""
    named = [(clock.name, clock.slots) for clock in clocks]
    return [
        leaders(facet, number, words(facet.name) + (f", {day.name}" if day.name else ""), named, config)
        for number, day in enumerate(days)
        for facet in day.facets
    ]


def _write_list(folder: Path, settings: Settings) -> None:
    """The list of the clocks that were drawn, with a search by the log's id."""
    drawn = {path: DrawnClock(**read_json(path)) for path in sorted(folder.glob("*.json"))}
    users = sorted((clock.user, path) for path, clock in drawn.items() if clock.user)
    everybody = [("", path) for path, clock in drawn.items() if not clock.user]
    rows = [
        Row([Cell(user or "everybody", link=f"{path.stem}.html"), f"{drawn[path].events:,}", drawn[path].as_of], strong=not user)
        for user, path in (*everybody, *users)
    ]  # fmt: skip
    table = Table([Column("clock of"), Column("events"), Column("as of (UTC)")], rows)
    write_page(
        folder / "index.html", "Interest clocks", INDEX,
        home="../index.html", names=[user for user, _ in users], table=table, source=settings.source,
        lookup=settings.clock_lookup_url,
    )  # fmt: skip


def remove_clock_pages(settings: Settings, users: Iterable[int]) -> int:
    """Remove the pages of users' clocks, and write the list of the others again; returns how many there were."""
    folder = settings.reports_dir / "clocks"
    pages = [page for user in users if (page := folder / f"{user}.html").exists()]
    for page in pages:
        page.with_suffix(".json").unlink(missing_ok=True)
    if pages:
        _write_list(folder, settings)
    for page in pages:  # last: an interrupted removal finds them again
        page.unlink()
    return len(pages)


def clock_json(features: ClockFeatures, users: Sequence[int], at: Hour) -> list[JsonObject]:
    """Clocks of users as plain objects, for the command line; ``user`` is the log's id.

    Args:
        features: of the source.
        users: the platform's numbers.
        at: the running hour.

    Raises:
        NotReadyError: none of the users has a clock.
    """
    names = log_ids(features.events.root, "user", users)
    rows = features.get_clock(users, at).drop_columns(["hour"]).to_pylist()
    if not rows:
        raise _no_events(features, ", ".join(names.values()), at)
    return [
        {"user": names[row["user_id"]], **row, "as_of": hour.key if (hour := _hour(row["as_of"])) else None}
        for row in rows
    ]


def _no_events(features: ClockFeatures, who: str, at: Hour) -> NotReadyError:
    active = features.most_active(1)
    example = f"; one that has is {log_ids(features.events.root, 'user', active)[active[0]]}" if active else ""
    return NotReadyError(f"{who} has no event in the {features.settings.window_days} days before {at}{example}")
