"""The keys of a mapping that say where moments stand, and what the user's clock showed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import duckdb
from pydantic import Field, field_validator, model_validator

from core.documents import StrictModel, did_you_mean
from events.zones import check_zone, is_zone, known_zones

USERS_ZONE = "local_time.users_zone"
Fold = Literal["first", "second", "reject"]
"""Which of two moments is meant that a zone's clock showed the same."""


class Timestamp(StrictModel):
    """Where the moment stands and how it is written."""

    column: str = Field(description="A column, or an expression over columns: date || ' ' || time.")
    unit: Literal["iso", "s", "ms", "us", "ns"] = "iso"
    origin: datetime | None = Field(
        None, description="Moment that numbers count from, UTC; absent: 1970. For logs that hide their real start."
    )
    format: str | None = Field(None, description="strptime format where it is not ISO 8601.")
    zone: str = Field("UTC", description="Zone of times written without an offset.")
    fold: Fold = Field(
        "second",
        description="Which of the two a time without an offset is that the zone's clock showed twice, in autumn; reject "
        "quarantines such times, and those that the clock skipped in spring. Exposures and rows of tables are left out.",
    )

    @property
    def origin_us(self) -> int:
        """Microseconds from 1970 to the origin."""
        start = self.origin or datetime(1970, 1, 1, tzinfo=UTC)
        aware = start if start.tzinfo else start.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1_000_000)

    @field_validator("zone")
    @classmethod
    def _zone(cls, name: str) -> str:
        return check_zone(name)

    @field_validator("format")
    @classmethod
    def _format(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            if "%p" in pattern and "%H" in pattern:
                raise ValueError("%p (AM or PM) goes with %I, the hour of 12; %H is the hour of 24")
            try:
                with duckdb.connect() as con:
                    con.execute("SELECT try_strptime('', ?)", [pattern]).fetchall()
            except duckdb.Error as error:
                raise ValueError(str(error).splitlines()[0]) from None
        return pattern

    @model_validator(mode="after")
    def _counted(self) -> Timestamp:
        if self.origin and (self.unit == "iso" or self.format):
            raise ValueError("origin is for numbers: give unit s, ms, us or ns")
        return self


class LocalTime(StrictModel):
    """The user's wall clock: one zone, a zone per row or per user, or an offset per row."""

    zone: str | None = None
    zone_column: str | None = None
    offset_minutes_column: str | None = Field(
        None, description="Minutes from UTC, or hours and minutes such as +05:30 and -0700; of hours write tz * 60."
    )

    users_zone: str | None = Field(
        None, description="A column of the table of users with their zones, or an expression over its columns."
    )

    @field_validator("zone")
    @classmethod
    def _zone(cls, name: str | None) -> str | None:
        if name and name.isidentifier() and not is_zone(name):
            near = did_you_mean(name, known_zones())
            raise ValueError(
                f"unknown time zone '{name}'; if it is a column: zone_column, or users_zone in the table of users{near}"
            )
        return check_zone(name) if name else name

    @model_validator(mode="after")
    def _one(self) -> LocalTime:
        zones = [v for v in (self.zone, self.zone_column, self.offset_minutes_column, self.users_zone) if v]
        if len(zones) != 1:
            raise ValueError("give exactly one of zone, zone_column, offset_minutes_column, users_zone")
        return self
