"""The hour: every partition's key is a UTC hour such as ``2026-11-23T10``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from core.errors import ConfigError

HOUR = timedelta(hours=1)
DAY_HOURS = 24
"""Hours of a day."""
WEEK_HOURS = 7 * DAY_HOURS
"""Hours of a week."""
_KEY = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}")
_FIRST_DAY = date(1970, 1, 1).toordinal()
_YEARS = range(1970, 3000)
"""Years of keys: the hours around them can be counted and written, too."""


@dataclass(frozen=True, order=True)
class Hour:
    """One UTC hour, ordered; ``number`` counts hours since 1970-01-01T00 UTC."""

    number: int

    @classmethod
    def parse(cls, key: str) -> Hour:
        """Read a key such as ``2026-11-23T10``.

        >>> Hour.parse("1970-01-02T01").number
        25

        Raises:
            ConfigError: the text is not an hour.
        """
        try:
            day, hour = date.fromisoformat(key[:10]), int(key[11:])
            if not _KEY.fullmatch(key) or day.year not in _YEARS or hour >= DAY_HOURS:
                raise ValueError
            return cls((day.toordinal() - _FIRST_DAY) * DAY_HOURS + hour)
        except ValueError:
            raise ConfigError(
                f"'{key}' is not an hour; write a UTC hour as YYYY-MM-DDTHH, for example 2026-11-23T10"
            ) from None

    @classmethod
    def of(cls, moment: datetime) -> Hour:
        """The hour that contains ``moment`` (a naive moment counts as UTC).

        >>> Hour.of(datetime.fromisoformat("2026-11-23T10:59:59+02:00")).key
        '2026-11-23T08'
        """
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return cls(int(aware.timestamp() // 3600))

    @classmethod
    def of_day(cls, day: date) -> Hour:
        """The first hour of a UTC day.

        >>> Hour.of_day(date(2026, 11, 23)).key
        '2026-11-23T00'
        """
        return cls.of(datetime(day.year, day.month, day.day, tzinfo=UTC))

    @property
    def start(self) -> datetime:
        """First instant of the hour, UTC."""
        return datetime.fromtimestamp(self.number * 3600, tz=UTC)

    @property
    def key(self) -> str:
        return f"{self.day.isoformat()}T{self.number % DAY_HOURS:02d}"

    @property
    def day(self) -> date:
        """The UTC day that contains the hour.

        >>> Hour.parse("2026-11-23T10").day
        datetime.date(2026, 11, 23)
        """
        return date.fromordinal(_FIRST_DAY + self.number // DAY_HOURS)

    def __add__(self, hours: int) -> Hour:
        return Hour(self.number + hours)

    def __sub__(self, hours: int) -> Hour:
        return Hour(self.number - hours)

    def __str__(self) -> str:
        return self.key


def hour_range(start: Hour, end: Hour) -> Iterator[Hour]:
    """Hours in [start, end), in order.

    >>> [hour.key for hour in hour_range(Hour(22), Hour(25))]
    ['1970-01-01T22', '1970-01-01T23', '1970-01-02T00']
    """
    return (Hour(number) for number in range(start.number, end.number))


def check_range(start: Hour, end: Hour) -> None:
    """Check that a range that a person gave, ``--from`` and ``--to`` of a command, holds an hour.

    Raises:
        ConfigError: [start, end) is empty.
    """
    if start >= end:
        raise ConfigError(f"no hour lies from {start} to before {end}; --to names the hour after the last one")


def day_hours(day: date) -> list[Hour]:
    """The 24 UTC hours of a day.

    >>> hours = day_hours(date(2026, 11, 23))
    >>> len(hours), hours[-1].key
    (24, '2026-11-23T23')
    """
    first = Hour.of_day(day)
    return list(hour_range(first, first + DAY_HOURS))


def parse_day(key: str) -> date:
    """Read a day such as ``2026-11-23``.

    >>> parse_day("2026-11-23")
    datetime.date(2026, 11, 23)

    Raises:
        ConfigError: the text is not a day.
    """
    try:
        day = date.fromisoformat(key)
        if day.year not in _YEARS:
            raise ValueError
        return day
    except ValueError:
        raise ConfigError(f"'{key}' is not a day; write YYYY-MM-DD, for example 2026-11-23") from None


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
