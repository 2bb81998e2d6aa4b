"""``clock features``: the interest clocks of a source, by hand."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Annotated

import typer

from core import cli
from core.errors import ConfigError

app = cli.App(
    shared_source=True,
    help="Work on a source's interest clocks: rebuild, inspect, draw, fit.",
    epilog="Example: clock features page everyone --time 21:15",
)


@app.command()
def rebuild(
    until: Annotated[
        str | None, typer.Argument(metavar="[HOUR]", help="Default: the clocks' hour, else the end of the log.")
    ] = None,
    no_history: Annotated[
        bool,
        typer.Option("--no-history", help="Only the clocks as they are at HOUR: faster, but no training on the past."),
    ] = False,
    source: cli.SourceOption = None,
) -> None:
    """Compute all clocks from the events, and fill the online store."""
    from core.hours import Hour
    from events.store import EventStore
    from feature_repo.clock import ClockState
    from feature_repo.retrieval import ClockFeatures

    settings = cli.settings_of(source)
    store = EventStore(settings.events_dir)
    clock_state = ClockState(settings, store)
    hours = store.hours()
    last = clock_state.as_of or (hours[-1] + 1 if hours else None)
    end = Hour.parse(until) if until else last
    if end is None:
        raise ConfigError("no events yet; run 'clock events ingest' first")
    done = asdict(clock_state.rebuild(end, history=not no_history))
    rows = ClockFeatures(settings, store).materialize_all(end)
    print(json.dumps({**done, "online_rows": rows}))


@app.command()
def advance(
    until: Annotated[str, typer.Argument(metavar="HOUR", help="For example 2026-11-23T10.")],
    source: cli.SourceOption = None,
) -> None:
    """Bring clocks and online store up to an hour, hour by hour."""
    from core.hours import Hour
    from feature_repo.retrieval import advance as advance_to

    print(json.dumps(asdict(advance_to(cli.settings_of(source), Hour.parse(until)))))


@app.command()
def status(source: cli.SourceOption = None) -> None:
    """Show freshness and rows of every view."""
    from events.store import EventStore
    from feature_repo.retrieval import ClockFeatures

    settings = cli.settings_of(source)
    print(json.dumps(asdict(ClockFeatures(settings, EventStore(settings.events_dir)).status()), indent=1))


@app.command()
def clock(
    user: Annotated[list[int], typer.Argument(metavar="USER...", help="User ids.")],
    at: Annotated[
        str | None, typer.Option("--at", metavar="HOUR", help="The running hour. Default: the clocks' own.")
    ] = None,
    source: cli.SourceOption = None,
) -> None:
    """Print clocks of users as serving sees them, as JSON."""
    from core.hours import Hour
    from events.store import EventStore
    from feature_repo.retrieval import ClockFeatures
    from pages.clocks import clock_json

    settings = cli.settings_of(source)
    features = ClockFeatures(settings, EventStore(settings.events_dir))
    hour = Hour.parse(at) if at else features.clock.require_state().as_of
    print(json.dumps(clock_json(features.get_clock(user, hour)), ensure_ascii=False))


@app.command()
def page(
    who: Annotated[str, typer.Argument(metavar="USER", help="A user id, or 'everyone'.")],
    time: Annotated[str, typer.Option("--time", metavar="HH:MM", help="Local time of the Gaussian window.")] = "08:30",
    source: cli.SourceOption = None,
) -> None:
    """Draw a user's clock, or everybody's; prints the page's path."""
    from events.store import EventStore
    from feature_repo.retrieval import ClockFeatures
    from pages.clocks import EVERYONE, write_clock_page

    settings = cli.settings_of(source)
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", time):
        raise ConfigError(f"'{time}' is not a local time; write it as HH:MM, for example 08:30")
    if who != EVERYONE and not re.fullmatch(r"-?\d{1,18}", who):
        raise ConfigError(f"'{who}' is no user id; give a whole number, or '{EVERYONE}'")
    user = None if who == EVERYONE else int(who)
    print(write_clock_page(ClockFeatures(settings, EventStore(settings.events_dir)), user, time))


@app.command()
def fit(
    until: Annotated[
        str | None, typer.Argument(metavar="[HOUR]", help="Read nothing later. Default: the clocks' hour.")
    ] = None,
    source: cli.SourceOption = None,
) -> None:
    """Fit how much thin slots borrow (for CLOCK_SHRINKAGE=true)."""
    from core.hours import Hour
    from feature_repo.shrinkage import fit as fit_shrinkage

    fitted = fit_shrinkage(cli.settings_of(source), Hour.parse(until) if until else None)
    print(json.dumps(asdict(fitted), indent=1))
