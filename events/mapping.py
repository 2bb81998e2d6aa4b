"""The mapping file: how the columns of somebody's log become events (bring your own log)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import available_timezones

import duckdb
from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from core.documents import StrictModel, WholeNumber, did_you_mean, load_document
from core.errors import ConfigError
from core.files import is_tabbed
from events.schema import BEHAVIORS, PREDICTION_COLUMNS, RESERVED_FACETS, AttributeField, AttributeType, Owner

BUILTIN = Path(__file__).parent / "sources"
SOURCE_NAME = r"^[a-z][a-z0-9_-]{0,40}$"
LONGEST_DELIMITER = 4
"""Bytes; DuckDB takes no more."""
ITEM_FACET = "item"
"""The facet of a log without attributes: the item itself."""
CONTEXT_TYPES = ("category", "number")
"""What is known of an impression's moment can be one of these."""


class CsvOptions(StrictModel):
    """How a delimited text file is written."""

    delimiter: str | None = Field(None, description="Absent: a comma, or a tab in a file called .tsv.")
    quote: str = '"'
    skip: WholeNumber = Field(
        0, ge=0, le=1000, description="Lines before the header, or before the first row where there is none."
    )
    header: bool = True
    columns: tuple[str, ...] = Field((), description="Column names where the file has no header.")
    encoding: Literal["utf-8", "latin-1", "utf-16"] = "utf-8"

    @field_validator("delimiter")
    @classmethod
    def _tab(cls, text: str | None) -> str | None:
        if text == "":
            raise ValueError("a delimiter has at least one character")
        return "\t" if text == "\\t" else text

    @model_validator(mode="after")
    def _readable(self) -> CsvOptions:
        if len(self.quote) > 1 or not self.quote.isascii() or self.quote in {"\n", "\r"}:
            raise ValueError("quote is one character of ASCII, or empty")
        delimiter = self.delimiter or ","
        if len(delimiter.encode()) > LONGEST_DELIMITER:
            raise ValueError(f"a delimiter has at most {LONGEST_DELIMITER} bytes")
        if any(c in delimiter for c in "\r\n\0") or (self.quote and self.quote in delimiter):
            raise ValueError("a delimiter holds no line break and no quote")
        if self.columns and self.header:
            raise ValueError("columns are the names of a file without a header: add header: false, or take columns out")
        return self

    def delimiter_of(self, file: Path) -> str:
        """What stands between the cells of a file."""
        return self.delimiter or ("\t" if is_tabbed(file) else ",")


class Columns(StrictModel):
    """A column name, or an expression over columns, for each part of an event."""

    user_id: str
    item_id: str
    event_id: str | None = Field(None, description="Absent: a digest of user, item and timestamp.")
    played_seconds: str | None = None
    duration_seconds: str | None = None
    position: str | None = Field(
        None,
        description="Place of the item among those shown with it, a whole number; in a list that is unfolded, its index.",
    )
    request_id: str | None = Field(None, description="What the items that were shown together have in common.")


class Timestamp(StrictModel):
    """Where the moment stands and how it is written."""

    column: str
    unit: Literal["iso", "s", "ms", "us", "ns"] = "iso"
    origin: datetime | None = Field(
        None, description="Moment that numbers count from, UTC; absent: 1970. For logs that hide their real start."
    )
    format: str | None = Field(None, description="strptime format where it is not ISO 8601.")
    zone: str = Field("UTC", description="Zone of times written without an offset.")
    fold: Literal["first", "second", "reject"] = Field(
        "second",
        description="Which of the two a time without an offset is that the zone's clock showed twice, in autumn; reject "
        "quarantines such times, and those that the clock skipped in spring.",
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
    """The user's wall clock: one zone, a zone per row, or an offset in minutes per row."""

    zone: str | None = None
    zone_column: str | None = None
    offset_minutes_column: str | None = None

    @field_validator("zone")
    @classmethod
    def _zone(cls, name: str | None) -> str | None:
        if name and name.isidentifier() and not is_zone(name):
            near = did_you_mean(name, known_zones())
            raise ValueError(f"unknown time zone '{name}'; if it is a column: zone_column{near}")
        return check_zone(name) if name else name

    @model_validator(mode="after")
    def _one(self) -> LocalTime:
        zones = [v for v in (self.zone, self.zone_column, self.offset_minutes_column) if v]
        if len(zones) != 1:
            raise ValueError("give exactly one of zone, zone_column, offset_minutes_column")
        return self


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

    @property
    def moment(self) -> Timestamp:
        """How the moment of an age is written."""
        return Timestamp(column=self.column, unit=self.unit, format=self.format, zone=self.zone)

    @model_validator(mode="after")
    def _of_its_type(self) -> Attribute:
        foreign = {"separator": "list", "unit": "age", "format": "age", "zone": "age"}
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


class Users(SideTable):
    """A table of users: what rankers may read of a person besides what they did."""

    attributes: dict[str, OneAttribute] = Field(
        min_length=1, description=SideTable.model_fields["attributes"].description
    )


class Items(SideTable):
    """A table of items, joined on the item's id as it stands in the log.

    ``path`` may be a pattern; each facet is a column of the table, or an expression over its columns. Facets enter the
    interest clock; attributes are read by rankers only.
    """

    facets: dict[str, str] = Field(default_factory=dict)
    duration_seconds: str | None = None
    title: str | None = Field(None, description="What people call an item; pages show it, nothing is trained on it.")


class Negatives(StrictModel):
    """Negatives drawn for a log of positives only, at training time and never from the future."""

    per_positive: WholeNumber = Field(4, ge=1, le=100)
    kind: Literal["popularity", "own"] = "popularity"
    seed: WholeNumber = 7


Behavior = Literal["finish", "like", "skip", "dislike", "share"]


def _several(value: object) -> object:
    return (str(value),) if isinstance(value, str | int) else value


Values = Annotated[tuple[str, ...], BeforeValidator(_several, json_schema_input_type=str | tuple[str, ...])]
"""One text or several."""
ValuesByBehavior = dict[Behavior, Values]


class Actions(StrictModel):
    """Rows that tell what a user did with an item, perhaps long after it was shown.

    An action belongs to the impression with its event id; one that has none belongs to the last impression of its user
    and item in the window before it, or in the skew after it; one without any impression is a separate positive.
    """

    column: str = Field(description="Column that says what a row is. A row without a value is an impression.")
    values: ValuesByBehavior = Field(min_length=1, description="Values that mean a behavior.")
    ignored: Values = Field((), description="Values of rows that are passed over, and counted.")
    window_minutes: WholeNumber = Field(30, ge=0, le=7 * 24 * 60)
    skew_seconds: WholeNumber = Field(
        0, ge=0, le=600, description="An action may have a time so long before its impression's, as clocks differ."
    )


class Labels(StrictModel):
    """What the ending of an item in a list says: ``N1-1 N2-0``."""

    separator: str = Field("-", min_length=1, description="Between an item and its label; an item may hold it as well.")
    values: ValuesByBehavior = Field(min_length=1, description="Labels that mean a behavior.")
    shown: Values = Field(("0",), description="Labels that mean that the item was shown, and nothing was done.")


class Impressions(StrictModel):
    """Rows that tell what was shown: one row an item, or a list of items in one cell."""

    values: Values = Field((), description="Values of actions.column that mean that the item was shown.")
    list_column: str | None = Field(None, description="Column with the items that were shown together.")
    separator: str = Field("|", min_length=1, description="Between the items of a list that is text and no JSON array.")
    labels: Labels | None = Field(None, description="Where each item of a list ends with what was done with it.")
    chosen: dict[Behavior, str] = Field(
        default_factory=dict,
        description="Columns with those items of the list, one or several, with which something was done.",
    )

    @model_validator(mode="after")
    def _of_a_list(self) -> Impressions:
        if (self.labels or self.chosen) and not self.list_column:
            raise ValueError("labels and chosen are about a list: give list_column")
        if self.labels and self.chosen:
            raise ValueError("give labels or chosen, not both")
        if self.labels:
            told = [*self.labels.shown, *(label for group in self.labels.values.values() for label in group)]
            if twice := sorted({label for label in told if told.count(label) > 1}):
                raise ValueError(f"labels: {twice} would mean several things; a label means one")
        return self


class Exposures(StrictModel):
    """A log of who met which experiment variant, when.

    ``path`` is relative to the event log's folder; {name} stands for the event log's file name, {stem} for that name
    up to its first dot. Where it is a folder, every file in it is read, as where several processes log.
    """

    path: str
    experiment: str = "experiment"
    variant: str = "variant"
    user_id: str
    timestamp: Timestamp


class Mapping(StrictModel):
    """A mapping file. See ``clock events explain`` for a commented example."""

    source: str = Field(pattern=SOURCE_NAME)
    description: str = ""
    format: Literal["auto", "csv", "parquet", "jsonl"] = "auto"
    csv: CsvOptions = CsvOptions()
    paths: tuple[str, ...] = Field(
        (), description="Default paths; the command line's win. {hour} stands for the hour's key, one file an hour."
    )
    columns: Columns
    timestamp: Timestamp
    local_time: LocalTime
    facets: dict[str, str] = Field(default_factory=dict)
    context: dict[str, OneAttribute] = Field(
        default_factory=dict,
        description="What is known of the moment of an impression besides user, item and time: the place in the app, the "
        "device. Rankers read it; a request tells it under the same names. A column, or a category or number.",
    )
    items: Items | None = None
    users: Users | None = None
    behaviors: dict[Behavior, str] = Field(
        default_factory=dict, validation_alias=AliasChoices("behaviors", "behaviours")
    )
    actions: Actions | None = None
    impressions: Impressions | None = None
    ids: dict[Literal["user", "item"], Literal["auto", "int", "string"]] = Field(default_factory=dict)
    negatives: Negatives | None = None
    exposures: Exposures | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Mapping:
        if not self.behavior_names and self.has_lists:
            raise ValueError("say what was done: impressions.labels, impressions.chosen or behaviors")
        if self.has_lists and self.columns.position and not self.actions:
            raise ValueError("columns.position: a list says by itself where its items stood; take position out")
        if not self.behavior_names:
            raise ValueError("behaviors: name at least one, for example finish: 'true'")
        self._check_actions()
        self._check_attributes()
        for key, names in (("facets", self.facet_names), ("context", self.context_names)):
            if clash := [name for name in names if name.lower() in RESERVED_FACETS or name.startswith("__")]:
                raise ValueError(f"{key}: {sorted(clash)} are names that the platform itself uses; choose others")
            if bad := [name for name in names if not name.isidentifier()]:
                raise ValueError(f"{key}: {bad} must be plain names (letters, digits, underscore)")
        if shared := sorted(set(self.facet_names) & set(self.context)):
            raise ValueError(
                f"{shared} are facets and context; an attribute of the item is a facet, else it is context"
            )
        spelled = sorted({*self.facet_names, *self.context})
        if twins := [name for name in spelled if [other.lower() for other in spelled].count(name.lower()) > 1]:
            raise ValueError(f"facets: {twins} differ in case only; choose others")
        both = set(self.facets) & set(self.items.facets if self.items else {})
        if both:
            raise ValueError(f"facets: {sorted(both)} come from the log and from the items table; choose one")
        return self

    def _check_attributes(self) -> None:
        if wrong := [name for name, told in self.context.items() if told.type not in CONTEXT_TYPES]:
            raise ValueError(f"context.{wrong[0]}: of an impression's moment there are categories and numbers")
        taken = {name.lower() for name in (*self.facet_names, *self.context)} | RESERVED_FACETS | PREDICTION_COLUMNS
        columns = [field.column for field in self.attribute_fields if field.owner != "context"]
        if bad := [name for name in columns if not name.isidentifier()]:
            raise ValueError(f"attributes: {bad} must be plain names (letters, digits, underscore)")
        lower = [name.lower() for name in columns]
        if clash := sorted({name for name in columns if name.lower() in taken or lower.count(name.lower()) > 1}):
            raise ValueError(f"attributes: the column {clash[0]} would stand twice; choose another name")

    def _check_actions(self) -> None:
        shown = self.impressions or Impressions()
        if shown.values and not self.actions:
            raise ValueError("impressions.values: give actions.column, the column that has these values")
        told = self.actions.values if self.actions else {}
        values = [
            *shown.values,
            *(self.actions.ignored if self.actions else ()),
            *(v for group in told.values() for v in group),
        ]
        if ambiguous := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"actions: {ambiguous} would mean several things; a value means one")

    @property
    def behavior_names(self) -> tuple[str, ...]:
        """Behaviors that the source can know, in the schema's order."""
        shown = self.impressions or Impressions()
        told = {*self.behaviors, *(self.actions.values if self.actions else ()), *shown.chosen}
        told |= {*shown.labels.values} if shown.labels else set()
        return tuple(name for name in BEHAVIORS if name in told)

    @property
    def has_lists(self) -> bool:
        """Whether a cell of the log has several items."""
        return bool(self.impressions and self.impressions.list_column)

    @property
    def has_requests(self) -> bool:
        """Whether the log tells where an item was shown, or with which others."""
        return bool(self.columns.position or self.columns.request_id or self.has_lists)

    @property
    def mentioned_names(self) -> frozenset[str]:
        """Every word and quoted name of the keys that name columns of the log."""
        texts = [
            *self.columns.model_dump().values(), self.timestamp.column, *self.local_time.model_dump().values(),
            *self.log_facets.values(), *self.context_columns.values(), *self.behaviors.values(), self.actions and self.actions.column,
            *([self.impressions.list_column, *self.impressions.chosen.values()] if self.impressions else []),
        ]  # fmt: skip
        names = (name for text in texts if text for name in (text, *re.findall(r'\w+|"[^"]+"', text)))
        return frozenset(name.strip('"') for name in names)

    @property
    def facet_names(self) -> tuple[str, ...]:
        """Facets in the order of the file, those of the log first."""
        return (*self.log_facets, *(self.items.facets if self.items else ()))

    @property
    def context_names(self) -> tuple[str, ...]:
        """Names of the context in the order of the file."""
        return tuple(self.context)

    @property
    def context_columns(self) -> dict[str, str]:
        """For each part of the context its column of the log, or the expression."""
        return {name: told.column for name, told in self.context.items()}

    @property
    def attribute_fields(self) -> tuple[AttributeField, ...]:
        """What rankers read beside facets and categories of the context: of the users, the items, and the moment's numbers."""
        tables: dict[Owner, SideTable | None] = {"user": self.users, "item": self.items}
        told = [(owner, table.attributes) for owner, table in tables.items() if table]
        numbers = {name: attribute for name, attribute in self.context.items() if attribute.type == "number"}
        return tuple(
            AttributeField(owner, name, attribute.type)
            for owner, attributes in [*told, ("context", numbers)]
            for name, attribute in attributes.items()
        )

    @property
    def log_facets(self) -> dict[str, str]:
        """Facets that the log itself has; the item serves as one where the mapping names none at all."""
        if self.facets or (self.items and self.items.facets):
            return self.facets
        return {ITEM_FACET: self.columns.item_id}


@cache
def known_zones() -> frozenset[str]:
    """Time zones that Python and DuckDB both know; those that stand for this machine's own do not count."""
    with duckdb.connect() as con:
        engine = {str(row[0]) for row in con.execute("SELECT name FROM pg_timezone_names()").fetchall()}
    return frozenset(available_timezones() & engine - {"localtime", "posixrules", "Factory"})


def is_zone(name: str) -> bool:
    """Whether every library that the platform uses knows a time zone."""
    return name in known_zones()


def check_zone(name: str) -> str:
    """Return ``name`` if it is a known time zone; ``ValueError`` with a near match otherwise."""
    if not is_zone(name):
        raise ValueError(f"unknown time zone '{name}'{did_you_mean(name, known_zones())}")
    return name


def load_mapping(name: str) -> tuple[Mapping, Path]:
    """Read a mapping file, or a built-in one by its name.

    Returns:
        The mapping, and the folder its relative paths start from.

    Raises:
        ConfigError: the file is missing, is not YAML, or a key is wrong (the message names it).
    """
    path = Path(name)
    builtin = BUILTIN / f"{name}.yaml"
    if not path.exists() and builtin.exists():
        path = builtin
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in BUILTIN.glob("*.yaml")))
        raise ConfigError(f"no mapping file at '{name}'; give a YAML file, or one of the built-in: {known}")
    see = "See 'clock events explain' for a commented example."
    return load_document(path, Mapping, what="mapping file", see=see), path.parent


def log_paths(mapping: Mapping, folder: Path) -> list[str]:
    """The mapping's own paths; ``{hour}`` becomes any hour's key."""
    return [relative(folder, p.replace("{hour}", "*")) for p in mapping.paths]


def relative(folder: Path, path: str) -> str:
    """A path that a mapping names, from the folder that its paths start from."""
    return path if Path(path).is_absolute() else str(folder / path)
