"""What must stay the same between ingestions of one source, as ``source.json`` of its event store has it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from core.documents import JsonObject
from core.errors import DataError
from events.mapping import Mapping, Negatives
from events.mapping_rows import Actions
from events.schema import AttributeField


@dataclass(frozen=True)
class SourceProperties:
    """What must stay the same between ingestions of one source.

    Attributes:
        source: name of the source.
        facets: item attributes that its events carry, in the schema's order.
        behaviors: behaviors that it can know, in the schema's order.
        negatives: how negatives are drawn, None where the log holds impressions.
        context: names of what is known of the moment of an impression. More may come later.
        attributes: what rankers read of users, items and the context's numbers. More may come later.
        actions: how actions are joined to impressions, None where a row is an event.
        has_requests: whether events have positions and request ids. This may change once, to true: hours that were
            written before lack the columns, and are read as if these were null.
    """

    source: str
    facets: tuple[str, ...]
    behaviors: tuple[str, ...]
    negatives: Negatives | None
    actions: Actions | None = None
    has_requests: bool = False
    context: tuple[str, ...] = ()
    attributes: tuple[AttributeField, ...] = ()

    @classmethod
    def of(cls, mapping: Mapping) -> SourceProperties:
        """The properties that a mapping gives its source."""
        return cls(
            mapping.source, mapping.facet_names, mapping.behavior_names, mapping.negatives,
            mapping.actions.model_copy(update={"ignored": ()}) if mapping.actions else None, mapping.has_requests,
            mapping.context_names, mapping.attribute_fields,
        )  # fmt: skip

    @classmethod
    def from_json(cls, content: JsonObject) -> SourceProperties:
        """Read what ``to_json`` gave."""
        negatives = Negatives(**content["negatives"]) if content["negatives"] else None
        actions = Actions(**content["actions"]) if "actions" in content else None
        return cls(
            content["source"], tuple(content["facets"]), tuple(content["behaviours"]), negatives, actions,
            content.get("requests", False), tuple(content.get("context", ())),
            tuple(AttributeField(*told) for told in content.get("attributes", ())),
        )  # fmt: skip

    def grown_to(self, other: SourceProperties) -> SourceProperties:
        """These, and what ``other`` knows more of an impression, its user and item; nothing is forgotten."""
        more = tuple(name for name in other.context if name not in self.context)
        attributes = tuple(field for field in other.attributes if field not in self.attributes)
        return replace(
            self, has_requests=self.has_requests or other.has_requests, context=(*self.context, *more),
            attributes=(*self.attributes, *attributes),
        )  # fmt: skip

    def check_types(self, other: SourceProperties) -> None:
        """Return if no attribute and no part of the context is of another type in ``other``.

        Raises:
            DataError: one is.
        """
        types = {(field.owner, field.name): field.type for field in self.attributes}
        types = {**{("context", name): "category" for name in self.context}, **types}
        told = {(field.owner, field.name): field.type for field in other.attributes}
        told = {**{("context", name): "category" for name in other.context}, **told}
        for (owner, name), kind in told.items():
            if (known := types.get((owner, name), kind)) != kind:
                raise DataError(
                    f"'{name}' of the {owner} is a {known} in this source, and the mapping says {kind}: give it another name, "
                    "or set its type back"
                )

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the context whose texts are values; its numbers are among the attributes."""
        numbers = {field.name for field in self.attributes if field.owner == "context"}
        return tuple(name for name in self.context if name not in numbers)

    def to_json(self) -> JsonObject:
        """The content of ``source.json``."""
        return {
            "source": self.source,
            "facets": list(self.facets),
            "behaviours": list(self.behaviors),
            "negatives": self.negatives.model_dump() if self.negatives else None,
            **({"actions": self.actions.model_dump(mode="json", exclude={"ignored"})} if self.actions else {}),
            **({"requests": True} if self.has_requests else {}),
            **({"context": list(self.context)} if self.context else {}),
            **({"attributes": [list(astuple(field)) for field in self.attributes]} if self.attributes else {}),
        }
