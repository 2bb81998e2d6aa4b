"""The keys of a mapping that say what a row tells: actions, impressions, and the labels of items in a list."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from core.documents import StrictModel, WholeNumber

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
