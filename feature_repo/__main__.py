"""``python -m feature_repo``: the interest clocks of a source, by hand."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict

from core import cli
from core.errors import ConfigError
from core.hours import Hour
from core.settings import Settings


def main(arguments: argparse.Namespace) -> None:
    settings = cli.settings_of(arguments.source)
    commands = {
        "rebuild": _rebuild,
        "advance": _advance,
        "status": _status,
        "clock": _clock,
        "page": _page,
        "fit": _fit,
    }
    commands[arguments.command](settings, arguments)


def _rebuild(settings: Settings, arguments: argparse.Namespace) -> None:
    from events.store import EventStore
    from feature_repo.clock import ClockState
    from feature_repo.retrieval import ClockFeatures

    store = EventStore(settings.events_dir)
    clock = ClockState(settings, store)
    hours = store.hours()
    last = clock.as_of or (hours[-1] + 1 if hours else None)
    until = Hour.parse(arguments.until) if arguments.until else last
    if until is None:
        raise ConfigError("no events yet; run 'python -m events ingest' first")
    done = asdict(clock.rebuild(until, history=not arguments.no_history))
    rows = ClockFeatures(settings, store).materialize_all(until)
    print(json.dumps({**done, "online_rows": rows}))


def _advance(settings: Settings, arguments: argparse.Namespace) -> None:
    from feature_repo.retrieval import advance

    print(json.dumps(asdict(advance(settings, Hour.parse(arguments.until)))))


def _status(settings: Settings, arguments: argparse.Namespace) -> None:
    from events.store import EventStore
    from feature_repo.retrieval import ClockFeatures

    del arguments
    print(json.dumps(asdict(ClockFeatures(settings, EventStore(settings.events_dir)).status()), indent=1))


def _clock(settings: Settings, arguments: argparse.Namespace) -> None:
    from events.store import EventStore
    from feature_repo.retrieval import ClockFeatures
    from pages.clocks import clock_json

    store = EventStore(settings.events_dir)
    features = ClockFeatures(settings, store)
    at = Hour.parse(arguments.at) if arguments.at else features.clock.require_state().as_of
    print(json.dumps(clock_json(features.get_clock(arguments.user, at)), ensure_ascii=False))


def _page(settings: Settings, arguments: argparse.Namespace) -> None:
    from events.store import EventStore
    from feature_repo.retrieval import ClockFeatures
    from pages.clocks import EVERYONE, write_clock_page

    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", arguments.time):
        raise ConfigError(f"'{arguments.time}' is not a local time; write it as HH:MM, for example 08:30")
    if arguments.who != EVERYONE and not re.fullmatch(r"-?\d{1,18}", arguments.who):
        raise ConfigError(f"'{arguments.who}' is no user id; give a whole number, or '{EVERYONE}'")
    user = None if arguments.who == EVERYONE else int(arguments.who)
    print(write_clock_page(ClockFeatures(settings, EventStore(settings.events_dir)), user, arguments.time))


def _fit(settings: Settings, arguments: argparse.Namespace) -> None:
    from feature_repo.shrinkage import fit

    print(json.dumps(asdict(fit(settings, Hour.parse(arguments.until) if arguments.until else None)), indent=1))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m feature_repo", description=__doc__)
    top.add_argument("--source", help="workspace to work on; default CLOCK_SOURCE, else simulator")
    commands = top.add_subparsers(dest="command", required=True)
    rebuild = commands.add_parser("rebuild", help="compute all clocks from the events, and fill the online store")
    rebuild.add_argument("until", nargs="?", metavar="HOUR", help="default: the clocks' hour, else the end of the log")
    rebuild.add_argument(
        "--no-history",
        action="store_true",
        help="only the clocks as they are at HOUR: faster, but no training on the past",
    )
    advance = commands.add_parser("advance", help="bring clocks and online store to an hour, one hour after the other")
    advance.add_argument("until", metavar="HOUR")
    commands.add_parser("status", help="freshness and rows of every view")
    clock = commands.add_parser("clock", help="clocks of users as serving sees them, as JSON")
    clock.add_argument("user", nargs="+", type=int)
    clock.add_argument("--at", metavar="HOUR", help="the running hour; default: the clocks' own")
    page = commands.add_parser("page", help="draw a user's clock, or everybody's; prints the page's path")
    page.add_argument("who", metavar="USER", help="a user id, or 'everyone'")
    page.add_argument(
        "--time", default="08:30", metavar="HH:MM", help="local time of the Gaussian window (default 08:30)"
    )
    fit = commands.add_parser("fit", help="fit how much thin slots borrow (for CLOCK_SHRINKAGE=true)")
    fit.add_argument("until", nargs="?", metavar="HOUR", help="read nothing later; default: the clocks' hour")
    return top


if __name__ == "__main__":
    cli.run(parser(), main)
