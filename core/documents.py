"""Documents: the files that people write, checked against a model (every error with its line and a hint), and plain JSON."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from core.errors import ConfigError

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object at the edge: read and not checked yet, or dumped from a typed value to be written. Code passes the typed value."""
WholeNumber = Annotated[int, Strict()]
"""An integer; ``true`` is none."""
M = TypeVar("M", bound=BaseModel)
NO_KEY = re.compile(r"[^\w.]")
MOST_VALUES = 100_000
"""Values that a file may hold, counted as often as anchors repeat them."""


class StrictModel(BaseModel):
    """Content of a document, or a part of it: unknown keys are errors, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint, ``; did you mean 'x'?``, if one of the names is similar; otherwise an empty text.

    >>> did_you_mean("gerne", ["genre", "mood"])
    "; did you mean 'genre'?"
    """
    spelled = {other.casefold(): other for other in names}
    matches = difflib.get_close_matches(name.casefold(), spelled, n=1, cutoff=0.5)
    return f"; did you mean '{spelled[matches[0]]}'?" if matches else ""


def one_line(text: str, longest: int = 200) -> str:
    r"""Somebody's text as a message quotes it: in one line, and shortened.

    >>> one_line("a\n  b")
    'a b'
    """
    joined = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return joined if len(joined) <= longest else f"{joined[:longest]}…"


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
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"no {what} at '{path}'" + (f". {see}" if see else "")) from None
    except OSError as error:
        raise ConfigError(f"{what} '{path}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text (UTF-16, Latin-1?); save it as UTF-8") from None
    return parse_document(text, model, path=path, see=see)


def parse_document(text: str, model: type[M], *, path: Path, see: str = "") -> M:
    """A file's text as a model.

    Args:
        text: YAML.
        model: pydantic model of its content.
        path: of the file, for messages.
        see: where to find help; the last line of an error.

    Raises:
        ConfigError: as ``load_document``.
    """
    root: yaml.Node | None = None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_size(path, root)
        repeated = _repeated_keys(root)  # before keys that a merge (<<) brings stand among them
        content = {} if root is None else yaml.SafeLoader("").construct_document(root)
    except RecursionError:
        raise ConfigError(f"{path} is not valid: it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line} is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}{_line_of_date(root)} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys" + (f". {see}" if see else ""))
    problems = [
        f"  line {mark.line + 1}: '{key}' appears twice (first in line {first.line + 1})"
        for key, first, mark in repeated
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
    name = ".".join(map(str, location))
    if error["type"] == "extra_forbidden":
        text = f"unknown key{did_you_mean(str(location[-1]), keys)}"
    else:
        text = error["msg"].removeprefix("Value error, ")
        if error["type"] == "string_type" and isinstance(error.get("input"), bool):
            text += " (YAML reads off, on, yes and no as true or false: write the name in quotes)"
        elif error["type"] == "string_type" and isinstance(error.get("input"), int | float | date):
            text += " (write it in quotes)"
    if not location:  # of the whole file: the text begins with the key that it is about, if it is about one
        place = NO_KEY.split(text, maxsplit=1)[0].split(".")
        return f"  line {_line(root, place)}: {text}" if _has_key(root, place[0]) else f"  {text}"
    return f"  line {_line(root, location)}: {name}: {text}"


def _has_key(node: yaml.Node | None, key: str) -> bool:
    return isinstance(node, yaml.MappingNode) and any(name.value == key for name, _ in node.value)


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


def _check_size(path: Path, root: yaml.Node | None) -> None:
    """Check that a document is finite and small once its references (*) are replaced by what their anchors (&) hold."""
    sizes: dict[int, int] = {}
    ancestors: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in ancestors:
            raise ConfigError(f"{path} is not valid: an anchor (&) contains itself")
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) not in sizes:
            ancestors.add(id(node))
            sizes[id(node)] = 1 + sum(map(size, _children(node)))
            ancestors.discard(id(node))
        return sizes[id(node)]

    if root is not None and size(root) > MOST_VALUES:
        raise ConfigError(
            f"{path} is not valid: it has more than {MOST_VALUES:,} values, with what its anchors (&) repeat"
        )


def _line_of_date(node: yaml.Node | None) -> str:
    """Where a document holds a date that is none, for a message."""
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:timestamp":
        try:
            yaml.constructor.SafeConstructor().construct_yaml_timestamp(node)
        except ValueError:
            return f", line {node.start_mark.line + 1}"
    if not isinstance(node, yaml.CollectionNode):
        return ""
    return next((line for child in _children(node) if (line := _line_of_date(child))), "")


def _children(node: yaml.CollectionNode) -> list[yaml.Node]:
    """Nodes in a node; of a mapping its keys and values."""
    return [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value


def _repeated_keys(node: yaml.Node | None) -> list[tuple[str, Any, Any]]:
    """Keys that a mapping repeats: key, mark of its first use, mark of the repetition."""
    repeated: list[tuple[str, Any, Any]] = []
    if isinstance(node, yaml.MappingNode):
        first_marks: dict[str, yaml.Mark] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):  # a list or a mapping is no key, which constructing the document tells
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
