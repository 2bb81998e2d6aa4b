"""What a trained state is and what it came from: the description beside its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from pydantic import ValidationError

from core.documents import JsonObject
from core.errors import NotReadyError
from core.files import digest_json, digest_text, read_json
from events.schema import AttributeField
from training.config import RankerConfig, code_version


@dataclass(frozen=True)
class WarmStart:
    """What a chain took over from its last state when the ranker's configuration changed; see ``training.warm_start``.

    Attributes:
        hour: of that state.
        changes: what differs, with both values.
        tables: whose embeddings were taken over; of the ``fresh_tables`` only the ids were.
        layers: whose weights were taken over; the ``fresh_layers`` began anew.
        fresh_counts: tables whose counts began anew.
    """

    hour: str
    changes: tuple[str, ...]
    tables: tuple[str, ...]
    fresh_tables: tuple[str, ...]
    layers: tuple[str, ...]
    fresh_layers: tuple[str, ...]
    fresh_counts: tuple[str, ...]

    def __str__(self) -> str:
        """One line for a person."""
        tables = f"{len(self.tables)} of {len(self.tables) + len(self.fresh_tables)} tables"
        layers = f"{len(self.layers)} of {len(self.layers) + len(self.fresh_layers)} layers"
        counts = [f"counts of {name}" for name in self.fresh_counts]
        fresh = [*(f"{name} (ids kept)" for name in self.fresh_tables), *self.fresh_layers, *counts]
        new = f"; new: {', '.join(fresh)}" if fresh else ""
        return f"{', '.join(self.changes)}; took over {tables} and {layers} of the state at {self.hour}{new}"


@dataclass(frozen=True)
class StateInfo:
    """What a state is and what it came from.

    Attributes:
        hour: last hour trained on.
        parent: digest of the state before, empty for the first.
        data: digest of the samples trained on since the state before.
        digest: identifies the state: of parent, data, config and code.
        weights: digest of its file.
        builds_on: hour of the state whose tensors this one's complete; empty if this one's are whole.
        context: names of what is known of an impression's moment, that the ranker reads; states that did not know it read none.
        attributes: of users, items and moments, that the ranker reads.
        shards: digests of the files with its tables, one for each process that trained it; empty where ``weights`` has them.
        layers: files that it is spread over, including the one in its folder; 0 in states that did not count them.
        warm_start: the last one of the chain, None where the configuration has not changed since its beginning.
    """

    variant: str
    hour: str
    parent: str
    data: str
    config: JsonObject
    code: str
    samples_seen: int
    facets: tuple[str, ...]
    heads: tuple[str, ...]
    weights: str = ""
    builds_on: str = ""
    tables: dict[str, int] = field(default_factory=dict)
    layers: int = 0
    context: tuple[str, ...] = ()
    attributes: tuple[AttributeField, ...] = ()
    shards: tuple[str, ...] = ()
    warm_start: WarmStart | None = None

    @property
    def digest(self) -> str:
        return lineage_digest(self.parent, self.data, digest_json(self.config), self.code)

    @property
    def ranker_config(self) -> RankerConfig:
        """What it was trained with; an option that was added later has its default.

        Raises:
            NotReadyError: it was trained with an option that no longer exists.
        """
        try:
            return RankerConfig(**self.config)
        except ValidationError as error:
            wrong = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
            raise NotReadyError(
                f"the state of '{self.variant}' at {self.hour} was trained with options that this platform does not have "
                f"({wrong}): move the states of this variant away to train it again"
            ) from None


def read_info(folder: Path) -> StateInfo:
    """The description in a state's folder, wherever that folder lies."""
    content = read_json(folder / "state.json")
    known = {f.name for f in fields(StateInfo)}
    content = {name: value for name, value in content.items() if name in known}  # older states said more
    names = {name: tuple(content.get(name, ())) for name in ("facets", "heads", "context", "shards")}
    attributes = tuple(AttributeField(**each) for each in content.get("attributes", ()))
    warm: JsonObject = content.get("warm_start") or {}
    lists = {name: tuple(value) for name, value in warm.items() if name != "hour"}
    warm_start = WarmStart(hour=warm["hour"], **lists) if warm else None
    return StateInfo(**{**content, **names, "attributes": attributes, "warm_start": warm_start})


def lineage_digest(parent: str, data: str, config: str, code: str) -> str:
    """Digest that identifies a state by where it comes from."""
    return digest_text(parent, data, config, code)


def new_info(
    config: RankerConfig,
    facets: Sequence[str],
    heads: Sequence[str],
    context: Sequence[str] = (),
    attributes: Sequence[AttributeField] = (),
) -> StateInfo:
    """Description of the state before any training."""
    return StateInfo(
        variant=config.variant, hour="", parent="", data="", config=config.model_dump(mode="json"),
        code=code_version(), samples_seen=0, facets=tuple(facets), heads=tuple(heads), context=tuple(context),
        attributes=tuple(attributes),
    )  # fmt: skip


def lineage_tags(info: StateInfo) -> dict[str, str | int]:
    """Tags that say where a state comes from."""
    return {
        "variant": info.variant,
        "hour": info.hour,
        "state_digest": info.digest,
        "parent_digest": info.parent,
        "data_digest": info.data,
        "code_version": info.code,
        "samples_seen": info.samples_seen,
        **({"warm_start": str(info.warm_start)} if info.warm_start else {}),
    }
