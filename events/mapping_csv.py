"""The keys of a mapping that say how a delimited text file is written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from core.documents import StrictModel, WholeNumber
from core.files import is_tabbed
from events.packing import plain_name

LONGEST_DELIMITER = 4
"""Bytes; DuckDB takes no more."""


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
        return self.delimiter or ("\t" if is_tabbed(plain_name(file)) else ",")
