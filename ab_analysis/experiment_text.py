"""The text of an experiment file: written from values, and changed in place with every comment and line kept."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ab_analysis.experiment import Experiment, parse_experiment
from core.errors import ConfigError


def format_keys(values: Mapping[str, Any]) -> str:
    """Keys of an experiment file, one a line, as a person writes them.

    >>> print(format_keys({"name": "night", "variants": {"a": 0.5, "b": 0.5}, "primary": ["likes"]}), end="")
    name: night
    variants: {a: 0.5, b: 0.5}
    primary: [likes]
    """
    return "".join(f"{key}: {_value(value)}\n" for key, value in values.items())


def set_keys(text: str, values: Mapping[str, Any], path: Path) -> str:
    """An experiment file's text with some keys set to other values; all else stays as it is, comments too.

    A new key goes below the one that stands before it in the schema; one that comes last there, to the end.

    Args:
        text: of the file.
        values: key → value of plain types.
        path: of the file, for messages.

    Raises:
        ConfigError: a value is wrong, or the file is written in a way in which a key cannot be set without touching another one.
    """
    before = parse_experiment(text, path)
    try:
        wanted = Experiment.model_validate({**before.model_dump(mode="json", exclude_unset=True), **values})
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise ConfigError(f"{path} stays as it is: {'; '.join(told)}") from None
    changed = text
    for key, value in values.items():
        changed = _set_key(changed, key, _value(value), path)
    try:
        same = parse_experiment(changed, path) == wanted
    except ConfigError:
        same = False
    if not same:
        raise _by_hand(path, ", ".join(values))
    return changed


def comments_of(text: str) -> list[str]:
    """The comments of a YAML text, without what stands before them."""
    tokens = yaml.scan(text, Loader=yaml.SafeLoader)
    scalars = [(t.start_mark.index, t.end_mark.index) for t in tokens if isinstance(t, yaml.ScalarToken)]
    comments, place = [], 0
    for line in text.splitlines(keepends=True):
        for at, sign in enumerate(line):
            outside = not any(start <= place + at < end for start, end in scalars)
            if sign == "#" and outside and (at == 0 or line[at - 1].isspace()):
                comments.append(line[at:].strip())
                break
        place += len(line)
    return comments


def _value(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _set_key(text: str, key: str, value: str, path: Path) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise _by_hand(path, key)
    nodes = {name.value: node for name, node in root.value}
    if key in nodes:
        if not _in_line(nodes[key]):
            raise _by_hand(path, key)
        start, end = nodes[key].start_mark.index, nodes[key].end_mark.index
        return f"{text[:start]}{value}{text[end:]}"
    fields = list(Experiment.model_fields)
    place_in_schema = fields.index(key)
    above = next((name for name in reversed(fields[:place_in_schema]) if name in nodes), None)
    last = not any(name in nodes for name in fields[place_in_schema:])
    line = f"{key}: {value}\n"
    if last or above is None or not _in_line(nodes[above]):
        return f"{text if text.endswith(chr(10)) else text + chr(10)}{line}"
    lines = text.splitlines(keepends=True)
    place = nodes[above].end_mark.line + 1
    if not lines[place - 1].endswith("\n"):
        lines[place - 1] += "\n"
    return "".join([*lines[:place], line, *lines[place:]])


def _in_line(node: yaml.Node) -> bool:
    """Whether a value ends where it is written: its end mark is not that of the next key."""
    if isinstance(node, yaml.CollectionNode):
        return bool(node.flow_style)
    return not (isinstance(node, yaml.ScalarNode) and node.style in {"|", ">"})


def _by_hand(path: Path, keys: str) -> ConfigError:
    return ConfigError(
        f"{path}: {keys} cannot be set in this file without touching its other lines; change it in an editor"
    )
