"""The keys of a mapping about tables beside the log, and the attributes that rankers read of users, items and moments."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from core.documents import StrictModel
from events.mapping_csv import CsvOptions
from events.mapping_times import Fold, Timestamp
from events.schema import AttributeType


class Attribute(StrictModel):
    """What a ranker reads beside ids, facets and time: a column or an expression, and how it is understood.

    A column alone is a category.
    """

    column: str = Field(min_length=1)
    type: AttributeType = Field(
        "category",
        description="category: each text is a value. number: read by quantiles of the past. list: several categories. "
        "age: the time since a moment, such as an item's release.",
    )
    separator: str = Field(",", min_length=1, description="list: between the values of a text that is no JSON array.")
    unit: Literal["iso", "s", "ms", "us", "ns"] = Field("iso", description="age: how the moment is written.")
    format: str | None = Field(None, description="age: strptime format of the moment where it is not ISO 8601.")
    zone: str = Field("UTC", description="age: zone of a moment written without an offset.")
    fold: Fold = Field(
        "second", description="age: which of two moments is meant, as for timestamp; reject: it is missing."
    )

    @property
    def moment(self) -> Timestamp:
        """How the moment of an age is written."""
        return Timestamp(column=self.column, unit=self.unit, format=self.format, zone=self.zone, fold=self.fold)

    @model_validator(mode="after")
    def _of_its_type(self) -> Attribute:
        foreign = {"separator": "list"} | dict.fromkeys(("unit", "format", "zone", "fold"), "age")
        if wrong := [name for name, kind in foreign.items() if name in self.model_fields_set and kind != self.type]:
            raise ValueError(f"{wrong[0]} belongs to the type {foreign[wrong[0]]}, and this is a {self.type}")
        if self.type == "age":
            _ = self.moment
        return self


def _attribute(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


OneAttribute = Annotated[Attribute, BeforeValidator(_attribute, json_schema_input_type=str | Attribute)]


class SideTable(StrictModel):
    """A table beside the log, of one row a user or an item, or, with ``since``, one for each time something changed."""

    path: str = Field(min_length=1, description="A file, or a pattern; relative to the mapping or to the log.")
    format: Literal["auto", "csv", "parquet", "jsonl"] = "auto"
    csv: CsvOptions = CsvOptions()
    key: str = Field(description="Column with the id as it stands in the log.")
    since: Annotated[
        Timestamp | None,
        BeforeValidator(_attribute, json_schema_input_type=str | Timestamp),
        Field(
            description="From when a row's attributes hold; absent: one row tells what holds, until a later table differs."
        ),
    ] = None
    attributes: dict[str, OneAttribute] = Field(
        default_factory=dict,
        description="What rankers read: for each a column of the table, or an expression over its columns.",
    )

    @property
    def number_columns(self) -> set[str]:
        """Columns and expressions of attributes that are numbers."""
        return {attribute.column for attribute in self.attributes.values() if attribute.type == "number"}


class Users(SideTable):
    """A table of users: what rankers may read of a person besides what they did, and the zone of their clock."""


class Items(SideTable):
    """A table of items, joined on the item's id as it stands in the log.

    ``path`` may be a pattern; each facet is a column of the table, or an expression over its columns. Facets enter the
    interest clock; attributes are read by rankers only.
    """

    facets: dict[str, str] = Field(default_factory=dict)
    duration_seconds: str | None = None
    title: str | None = Field(None, description="What people call an item; pages show it, nothing is trained on it.")
