"""Files that people write: keys that an anchor brings, keys that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from core.documents import parse_document
from core.errors import ConfigError

FILE = Path("file.yaml")


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = 0
    color: str = ""


class Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first: Part = Part()
    second: Part = Part()


def test_what_a_merge_brings_may_be_written_over() -> None:
    text = "first: &part {size: 1, color: red}\nsecond:\n  <<: *part\n  color: blue\n"
    content = parse_document(text, Content, path=FILE)
    assert (content.first, content.second) == (Part(size=1, color="red"), Part(size=1, color="blue"))


def test_a_key_that_is_written_twice_beside_a_merge_is_an_error() -> None:
    text = "first: &part {size: 1}\nsecond:\n  <<: *part\n  color: blue\n  color: red\n"
    with pytest.raises(ConfigError, match=r"line 5: 'color' appears twice \(first in line 4\)"):
        parse_document(text, Content, path=FILE)


def test_a_wrong_value_that_a_merge_brings_is_named_where_it_is_written() -> None:
    text = "first: {}\nsecond:\n  <<: {color: red,\n    size: tall}\n"
    with pytest.raises(ConfigError, match=r"line 4: second\.size"):
        parse_document(text, Content, path=FILE)


@pytest.mark.parametrize("key", ["[a, b]", "{a: b}"])
def test_a_list_or_a_mapping_as_a_key_is_an_error_in_one_line(key: str) -> None:
    with pytest.raises(ConfigError, match=r"line 1 is not valid YAML: found unhashable key$"):
        parse_document(f"? {key}\n: 1\n", Content, path=FILE)
