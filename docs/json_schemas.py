"""JSON schemas of pydantic models as Markdown tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from docs.markdown import code, prose, table


def type_of(schema: Mapping[str, Any]) -> str:  # noqa: PLR0911
    """Type of a JSON schema's property in words.

    >>> type_of({"anyOf": [{"type": "string"}, {"type": "null"}]})
    'string or null'
    >>> type_of({"type": "array", "items": {"enum": ["a", "b"]}})
    'list of a, b'
    """
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(type_of(alternative) for alternative in schema[key]))
    if "allOf" in schema:
        return " and ".join(type_of(alternative) for alternative in schema["allOf"])
    json_type = schema.get("type", "any")
    if json_type == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}: {', '.join(type_of(alternative) for alternative in schema['prefixItems'])}"
        return f"list of {type_of(schema.get('items', {}))}"
    if json_type == "object" and isinstance(schema.get("additionalProperties"), dict):
        names = schema.get("propertyNames", {})
        keys = f" ({', '.join(names['enum'])})" if "enum" in names else ""
        return f"map{keys} to {type_of(schema['additionalProperties'])}"
    return str(json_type)


def limits_of(schema: Mapping[str, Any]) -> str:
    """Limits of a JSON schema's property, such as ``≥ 1, ≤ 10``."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    if "pattern" in schema:
        limits.append(f"matches `{schema['pattern']}`")
    return ", ".join(limits)


def default_of(schema: Mapping[str, Any], required: bool) -> str:
    """Default of a JSON schema's property, as JSON in inline code."""
    if required:
        return "**required**"
    return code(json.dumps(schema["default"], ensure_ascii=False)) if schema.get("default") not in (None, "") else ""


def schema_sections(schema: Mapping[str, Any], title: str) -> str:
    """Tables of a model's fields and of every model below it."""
    parts = []
    for name, model in {title: schema, **schema.get("$defs", {})}.items():
        parts.append(f"## {name}")
        parts.append(prose(model.get("description", "")))
        if "enum" in model:
            parts.append("One of " + ", ".join(code(value) for value in model["enum"]) + ".")
        required = set(model.get("required", ()))
        rows = [
            (code(key), type_of(field), default_of(field, key in required), limits_of(field), field.get("description", ""))
            for key, field in model.get("properties", {}).items()
        ]  # fmt: skip
        if rows:
            parts.append(table(["key", "type", "default", "limits", "meaning"], rows))
    return "\n\n".join(part for part in parts if part)


def choices_of(pattern: str) -> str:
    """A pattern of alternatives as a list, any other pattern as code.

    >>> choices_of("^(duckdb|spark)$")
    'duckdb, spark'
    """
    alternatives = re.fullmatch(r"\^\(?([\w|]+)\)?\$", pattern)
    return alternatives[1].replace("|", ", ") if alternatives else f"matches `{pattern}`"
