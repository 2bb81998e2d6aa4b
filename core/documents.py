"""Documents: the files that people write, checked against a model (every error with its line and a hint), and plain JSON."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from core.errors import ConfigError

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object at the edge: read and not checked yet, or dumped from a typed value to be written. Code passes the typed value."""
M = TypeVar("M", bound=BaseModel)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint, ``; did you mean 'x'?``, if one of the names is similar; otherwise an empty text.

    >>> did_you_mean("gerne", ["genre", "mood"])
    "; did you mean 'genre'?"
    """
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def load_document(path: Path, model: type[M], *, what: str, see: str = "") -> M:
    """Read a YAML file into a model.

    Args:
        path: the file.
        model: pydantic model of its content.
        what: kind of file, for messages, such as ``experiment file``.
        see: where to find help; the last line of an error.

    Returns:
        The validated model.

    Raises:
        ConfigError: the file is missing, is not YAML, repeats a key, or a key is wrong; the message lists every problem
            with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if _contains_itself(root):
            raise ConfigError(f"{path} is not valid: an anchor (&) contains itself")
        content = {} if root is None else yaml.safe_load(text)
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"no {what} at '{path}'") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line} is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys" + (f". {see}" if see else ""))
    problems = [
        f"  line {mark.line + 1}: '{key}' is there twice (first in line {first.line + 1})"
        for key, first, mark in _repeated_keys(root)
    ]
    try:
        if not problems:
            return model.model_validate(content)
    except ValidationError as error:
        keys = _property_names(model.model_json_schema())
        problems = [_problem(e, root, keys) for e in error.errors()]
    problem_lines = "\n".join(problems)
    raise ConfigError(
        f"{path} has {len(problems)} problem(s):\n{problem_lines}" + (f"\n{see}" if see else "")
    ) from None


def _problem(error: Any, root: yaml.Node | None, keys: set[str]) -> str:
    location = tuple(error["loc"])
    name = ".".join(map(str, location)) or "file"
    if error["type"] == "extra_forbidden":
        text = f"unknown key{did_you_mean(str(location[-1]), keys)}"
    else:
        text = error["msg"].removeprefix("Value error, ")
        if error["type"] == "string_type" and isinstance(error.get("input"), bool):
            text += " (YAML reads off, on, yes and no as true or false: write the name in quotes)"
    return f"  line {_line(root, location)}: {name}: {text}"


def _line(node: yaml.Node | None, location: Sequence[Any]) -> int:
    """Line, counted from 1, of the deepest part of a location that exists in the file."""
    line = node.start_mark.line + 1 if node else 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value}
            if str(part) not in pairs:
                continue  # pydantic names the member of a union between the keys
            key, node = pairs[str(part)]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _contains_itself(node: yaml.Node | None) -> bool:
    """Whether an anchor of a document contains a reference to itself."""
    ancestors: set[int] = set()
    checked: set[int] = set()

    def visit(part: yaml.Node | None) -> bool:
        if not isinstance(part, yaml.CollectionNode) or id(part) in checked:
            return False
        if id(part) in ancestors:
            return True
        ancestors.add(id(part))
        children = [n for pair in part.value for n in pair] if isinstance(part, yaml.MappingNode) else part.value
        cyclic = any(visit(child) for child in children)
        ancestors.discard(id(part))
        checked.add(id(part))
        return cyclic

    return visit(node)


def _repeated_keys(node: yaml.Node | None) -> list[tuple[str, Any, Any]]:
    """Keys that a mapping repeats: key, mark of its first use, mark of the repetition."""
    repeated: list[tuple[str, Any, Any]] = []
    if isinstance(node, yaml.MappingNode):
        first_marks: dict[str, yaml.Mark] = {}
        for key, value in node.value:
            if key.value in first_marks:
                repeated.append((key.value, first_marks[key.value], key.start_mark))
            first_marks.setdefault(key.value, key.start_mark)
            repeated += _repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            repeated += _repeated_keys(value)
    return repeated


def _property_names(schema: Any) -> set[str]:
    """Every property name of a JSON schema."""
    names: set[str] = set()
    if isinstance(schema, dict):
        names |= set(schema.get("properties", {}))
        for value in schema.values():
            names |= _property_names(value)
    elif isinstance(schema, list):
        for value in schema:
            names |= _property_names(value)
    return names
