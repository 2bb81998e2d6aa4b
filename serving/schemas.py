"""The schema of a ranking request."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from core.id_text import strip_blanks
from events.zones import check_zone


def _id_text(value: Any) -> Any:
    """An id as text: JSON strings and whole numbers unchanged, nothing else; padding, which no id in a log has, is refused."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"an id is a text or a whole number, not {json.dumps(value)[:40]}")
    text = str(value)
    if not 1 <= len(text) <= LONGEST_ID:
        raise ValueError(f"an id has 1 to {LONGEST_ID} characters, not {len(text):,}")
    if text != strip_blanks(text):
        raise ValueError("an id has no spaces at its ends")
    return text


LONGEST_ID, LONGEST_ZONE = 200, 60
Key = Annotated[str, Field(min_length=1, max_length=LONGEST_ID, pattern=r"^[^\x00-\x1f]+$"), BeforeValidator(_id_text)]
"""An id in the source's log: a text or a whole number. (After the validator the field's limits would be functions of Python.)"""


class RankBody(BaseModel):
    """What to rank, for whom, and when."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    user: Key = Field(description="The user's id in the source's log.")
    candidates: Annotated[list[Key], Field(fail_fast=True)] | Literal["retrieve"] = Field(
        "retrieve",
        description="Ids of the items to rank, without repetitions; 'retrieve': the service finds candidates.",
    )
    time: AwareDatetime | None = Field(
        None, description="Time of the request with the user's offset from UTC; default: now, as the platform sees it."
    )
    zone: str | None = Field(None, description="The user's time zone, if the offset of time is not the user's.")
    count: int | None = Field(
        None, ge=1, strict=True, description="Number of items to return; default: all candidates, or 50 retrieved ones."
    )
    exclude: Annotated[list[Key], Field(fail_fast=True)] = Field(
        default_factory=list, description="Ids of items that must not be retrieved."
    )
    context: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict,
        max_length=20,
        description="What is known of the moment, by the names under context in the mapping, as text, number or boolean; "
        "further values are ignored.",
    )
    request_id: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._:-]{1,100}$", description="Returned with the answer; default: a generated one."
    )

    @property
    def context_texts(self) -> dict[str, str]:
        """The context as the log writes it: a whole number without a point, true and false in lower case.

        >>> RankBody(user="u", context={"tab": 1.0, "wifi": True, "device": "phone ", "place": None}).context_texts
        {'tab': '1', 'wifi': 'true', 'device': 'phone'}
        """
        texts = {name: _as_logged(value) for name, value in self.context.items() if value is not None}
        return {name: text for name, text in texts.items() if text}

    @field_validator("context")
    @classmethod
    def _whole_characters(cls, context: dict[str, Any]) -> dict[str, Any]:
        for text in (*context, *(value for value in context.values() if isinstance(value, str))):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError("a text holds half a character; was it cut within one?") from None
        return context

    @field_validator("zone")
    @classmethod
    def _zone(cls, name: str | None) -> str | None:
        if name is not None and not (name.isascii() and name.isprintable() and 1 <= len(name) <= LONGEST_ZONE):
            raise ValueError("unknown time zone; write a name such as 'Asia/Shanghai'")
        return check_zone(name) if name else None

    @model_validator(mode="after")
    def _distinct(self) -> RankBody:
        if isinstance(self.candidates, list):
            if not self.candidates:
                raise ValueError("candidates: the list is empty; give items, or 'retrieve'")
            if len(set(self.candidates)) < len(self.candidates):
                seen: set[str] = set()
                repeated = next(c for c in self.candidates if c in seen or seen.add(c))  # type: ignore[func-returns-value]
                raise ValueError(f"candidates: '{repeated}' appears twice")
        return self


def _as_logged(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return strip_blanks(str(value))


def problem_of(error: Any) -> str:
    """One of pydantic's errors in words.

    Args:
        error: an item of ``errors()``.
    """
    if error["type"] == "missing" and len(error["loc"]) == 1:
        return "the body is empty; send a JSON object"
    location = ".".join(str(p) for p in error["loc"] if p != "body" and not str(p).startswith(("list[", "literal[")))
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error.get('ctx', {}).get('error', text)} at character {error['loc'][-1]}"
    message = text if not location or text.startswith(location) else f"{location}: {text}"
    return message.encode(errors="backslashreplace").decode()
