"""How columns and their values are written in a mapping file for people."""

from __future__ import annotations

import json
import re

import yaml

from core.duck import identifier
from events.first_rows import Column, Options
from events.schema import RESERVED_FACETS


def expression(column: Column) -> str:
    """The column's name as an expression: quoted unless it is a plain word."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column.name) and is_yaml_text(column.name)
    return column.name if plain else json.dumps(identifier(column.name))


def facet_name(column: Column) -> str:
    """A name for an attribute that a mapping may have: small letters, digits and underscores."""
    plain = re.sub(r"[^a-z0-9_]+", "_", column.name.lower()).strip("_")
    return plain if plain.isidentifier() and plain not in RESERVED_FACETS and is_yaml_text(plain) else f"facet_{plain}"


def is_yaml_text(word: str) -> bool:
    """Whether YAML reads a word without quotes as that text: ``no`` and ``null`` are none."""
    return isinstance(yaml.safe_load(word), str)


def example_values(column: Column, lead: str = "  # ") -> str:
    """For example: three values, shortened."""
    return f"{lead}for example {', '.join(' '.join(v.split())[:24] for v in column.examples[:3])}"


def flow(options: Options | dict[str, str]) -> str:
    """A mapping of YAML on one line."""
    return "{" + ", ".join(f"{k}: {json.dumps(v)}" for k, v in options.items()) + "}"
