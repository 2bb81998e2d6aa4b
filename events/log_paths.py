"""Where a log lies: paths in which the hour, or the day, of the rows in a file may stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from zoneinfo import ZoneInfo

from core.errors import ConfigError
from core.hours import Hour

PLACE = re.compile(r"\{hour(?::(?P<form>[^{}]*))?\}")
KEY = "%Y-%m-%dT%H"
"""How an hour is written where a path does not say how."""
CODE = re.compile(r"%(.?)")
OF_YEAR, OF_DAY, OF_HOUR = {"Y", "y"}, ({"m", "d"}, {"j"}), {"H"}
DIGITS = {"Y": 4, "y": 2, "m": 2, "d": 2, "j": 3, "H": 2}
"""How many digits a code of a form stands for; the longer time first."""
ANY_TEXT = re.compile(r"\*+/?|\?|\[[^]]*\]")
URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^/]*)/?(?P<path>.*)", re.DOTALL)
LAST_MOMENT = timedelta(minutes=59, seconds=59)
"""From an hour's start to its last second."""


@dataclass(frozen=True)
class LogPaths:
    """The files of a log.

    Attributes:
        patterns: files, folders or globs. ``{hour}`` in one stands for an hour's key, ``{hour:%Y/%m/%d/%H}`` for the hour in a form
            of one's own; without the hour of the day (``{hour:%Y-%m-%d}``) the log has files of days.
        zone: time zone in which files are named.

    Raises:
        ConfigError: a form does not tell the day, or has a code that is not known.
    """

    patterns: tuple[str, ...]
    zone: str = "UTC"

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            if problem := problem_of(pattern):
                raise ConfigError(f"'{pattern}': {problem}")

    @property
    def name_times(self) -> bool:
        """Whether files are named for their hour or day (else each hour is taken out of the whole by its times)."""
        return any(PLACE.search(pattern) for pattern in self.patterns)

    @property
    def name_hours(self) -> bool:
        """Whether each hour has files of its own."""
        return bool(self.patterns) and all(map(names_every_hour, self.patterns))

    def of(self, hour: Hour) -> list[str]:
        """Paths of the files in which rows of an hour are; two of a pattern where the zone's hours begin within it."""
        moments = [(hour.start + after).astimezone(ZoneInfo(self.zone)) for after in (timedelta(), LAST_MOMENT)]
        written = [
            PLACE.sub(lambda place, at=moment: at.strftime(place["form"] or KEY), pattern)  # type: ignore[misc]
            for pattern in self.patterns
            for moment in moments
        ]
        return list(dict.fromkeys(written))

    def all(self) -> list[str]:
        """Globs of the whole log."""
        return [PLACE.sub(_any_time, pattern) for pattern in self.patterns]


def in_order(pattern: str, files: Sequence[str]) -> list[str]:
    """Files that a path matches by the times that they are named for, whatever the form; those of one time by name."""
    named = re.compile(_digits(pattern))

    def time(file: str) -> list[str]:
        match = named.match(file)
        return [match[code] for code in DIGITS if code in named.groupindex] if match else []

    return sorted(files, key=lambda file: (time(file), file))


def is_remote(path: str) -> bool:
    """Whether a path is an address such as ``s3://bucket/log``."""
    return URL.fullmatch(path) is not None


def problem_of(pattern: str) -> str:
    """What is wrong with the form of a path's hours; empty if nothing is."""
    forms = [place["form"] or KEY for place in PLACE.finditer(pattern)]
    codes = {code for form in forms for code in CODE.findall(form)}
    if unknown := sorted(codes - OF_YEAR - set().union(*OF_DAY) - OF_HOUR):
        return f"%{unknown[0]} is not known in {{hour:...}}; there are %Y %y %m %d %j and %H"
    if forms and not (codes & OF_YEAR and any(codes >= day for day in OF_DAY)):
        return "the form of {hour:...} does not tell the day; write for example {hour:%Y-%m-%d} or {hour:%Y/%m/%d/%H}"
    return ""


def names_every_hour(pattern: str) -> bool:
    """Whether each hour has files of its own under a path."""
    return any("%H" in (place["form"] or KEY) for place in PLACE.finditer(pattern))


def _digits(pattern: str) -> str:
    """Regular expression of a path, with a group for each code of its form."""
    parts: list[str] = []
    told: set[str] = set()
    at = 0
    for place in PLACE.finditer(pattern):
        parts.append(_any_text(pattern[at : place.start()]))
        form, at = place["form"] or KEY, place.end()
        for n, text in enumerate(CODE.split(form)):  # every second is a code
            digits = f"\\d{{{DIGITS[text]}}}" if n % 2 else ""
            parts.append(_any_text(text) if not digits else digits if text in told else f"(?P<{text}>{digits})")
            told |= {text} if digits else set()
    return "".join([*parts, _any_text(pattern[at:])])


def _any_text(path: str) -> str:
    return ".*".join(map(re.escape, ANY_TEXT.split(path)))


def _any_time(place: re.Match[str]) -> str:
    return re.sub(r"\*+", "*", CODE.sub("*", place["form"] or "%Y"))
