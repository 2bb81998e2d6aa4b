"""The mapping file: how the columns of somebody's log become events (bring your own log)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from core.documents import StrictModel, WholeNumber, load_document
from core.errors import ConfigError
from events.log_paths import LogPaths, is_remote, problem_of
from events.mapping_csv import CsvOptions
from events.mapping_rows import Actions, Behavior, Impressions
from events.mapping_tables import Items, OneAttribute, SideTable, Users
from events.mapping_times import USERS_ZONE, LocalTime, Timestamp
from events.schema import BEHAVIORS, PREDICTION_COLUMNS, RESERVED_FACETS, AttributeField, Owner
from events.zones import check_zone

BUILTIN = Path(__file__).parent / "sources"
SOURCE_NAME = r"^[a-z][a-z0-9_-]{0,40}$"
ITEM_FACET = "item"
"""The facet of a log without attributes: the item itself."""
CONTEXT_TYPES = ("category", "number")
"""What is known of an impression's moment can be one of these."""


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


class Negatives(StrictModel):
    """Negatives drawn for a log of positives only, at training time and never from the future."""

    per_positive: WholeNumber = Field(4, ge=1, le=100)
    kind: Literal["popularity", "own"] = "popularity"
    seed: WholeNumber = 7


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

    @field_validator("path")
    @classmethod
    def _beside_the_log(cls, path: str) -> str:
        """Refuse an address, of which nothing would be read: hours without exposures are no error."""
        if is_remote(path):
            raise ValueError(
                "an address is not looked at; name the exposures from the log's folder on, as ../exposures/{name}"
            )
        return path


class Mapping(StrictModel):
    """A mapping file. See ``clock events explain`` for a commented example."""

    source: str = Field(pattern=SOURCE_NAME)
    description: str = ""
    format: Literal["auto", "csv", "parquet", "jsonl"] = "auto"
    csv: CsvOptions = CsvOptions()
    paths: tuple[str, ...] = Field(
        (),
        description="Default paths; the command line's win. {hour} stands for the hour's key where the log has a file an hour, "
        "{hour:%Y/%m/%d/%H} for the hour in another form, and {hour:%Y-%m-%d} for the day where it has a file a day.",
    )
    path_zone: str = Field("UTC", description="Time zone of the hours and days that paths name.")
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

    @field_validator("paths")
    @classmethod
    def _paths(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            if problem := problem_of(path):
                raise ValueError(problem)
        return paths

    @field_validator("path_zone")
    @classmethod
    def _path_zone(cls, name: str) -> str:
        return check_zone(name)

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
        self._check_users()
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

    def _check_users(self) -> None:
        zone, users = self.local_time.users_zone, self.users
        if zone and users is None:
            raise ValueError(
                f"{USERS_ZONE}: name the table under users (path, key), or zone_column for a column of the log"
            )
        if zone and users and users.since:
            raise ValueError(
                f"{USERS_ZONE}: a table with since has several rows a user, and a user has one zone; take one of them out"
            )
        if users and not users.attributes and not zone:
            raise ValueError(f"users: name the attributes that rankers read, or the zone ({USERS_ZONE})")

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
            *self.columns.model_dump().values(), self.timestamp.column, *self.local_time.model_dump(exclude={"users_zone"}).values(),
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


def log_paths(mapping: Mapping, folder: Path, paths: Sequence[str] = ()) -> LogPaths:
    """Where a mapping's log lies: in ``paths`` or, where none are given, in the mapping's own."""
    own = (relative(folder, path) for path in mapping.paths)
    return LogPaths(tuple(paths or own), mapping.path_zone)


def relative(folder: Path, path: str) -> str:
    """A path that a mapping names, from the folder that its paths start from; an address stays as it is."""
    return path if Path(path).is_absolute() or is_remote(path) else str(folder / path)
