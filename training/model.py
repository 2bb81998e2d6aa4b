"""A trained state as an MLflow model: no pickle, weights in safetensors, loaded by this module.

``mlflow.pyfunc.load_model`` of a logged version predicts on a data frame, one row an impression:
``user_id``, ``item_id``, ``local_time``, the item's facets, the context, the attributes (``user_<name>``, ``item_<name>``; an
age in hours), the user's ``events`` and ``finish`` counts,
and for clock variants ``<facet>_values`` and ``<facet>_scores``: a list for each slot of the clock.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors.torch import load_file

from core.errors import CorruptStateError, DataError
from core.files import digest_file
from events.schema import AttributeType, Owner
from training.attributes import AttributeKeys, attribute_keys, encode
from training.batch import SampleTables
from training.checkpoint_delta import Tensors, apply
from training.ranker import Ranker
from training.scoring import predict
from training.state import WEIGHTS, ranker_tensors, scoring_ranker, untrained_ranker
from training.state_info import StateInfo, read_info
from training.tensors import hour_keys

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

RECENT_COLUMNS = ["history_items", "history_minutes"]


class RankerModel:
    """A ranker with what it was trained for."""

    def __init__(self, info: StateInfo, ranker: Ranker) -> None:
        self.info, self.ranker = info, ranker

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Probability of each behavior for each row, one column a behavior."""
        del params
        missing = [name for name in self.columns if name not in frame.columns]
        if missing:
            raise DataError(f"the model input lacks {missing}; it needs {self.columns}")
        tables = SampleTables(
            self._samples(frame), self._slots(frame), self._profiles(frame), self._recent_behaviors(frame)
        )
        told = self._attributes(frame)
        keys = replace(
            hour_keys(tables, self.ranker), categories=told.categories, numbers=told.numbers, lists=told.lists
        )
        return pd.DataFrame(predict(self.ranker, keys), columns=list(self.info.heads), index=frame.index)

    @property
    def slots(self) -> int:
        """Slots of the clocks that it was trained on."""
        return self.ranker.config.slots

    @property
    def columns(self) -> list[str]:
        """Input columns."""
        attributes = [field.column for field in self.info.attributes]
        base = [
            "user_id",
            "item_id",
            "local_time",
            *self.info.facets,
            *self.info.context,
            *attributes,
            "events",
            "finish",
        ]
        clock = [*_clock_columns(self.info), "slot_events"] if self.ranker.time.needs_clock else []
        return [*base, *clock, *(RECENT_COLUMNS if self.ranker.needs_recent_behaviors else [])]

    def _samples(self, frame: pd.DataFrame) -> pa.Table:
        columns: dict[str, pa.Array] = {
            "user_id": pa.array(frame["user_id"].to_numpy(dtype=np.int64)),
            "item_id": pa.array(frame["item_id"].to_numpy(dtype=np.int64)),
            "local_time": pa.array(pd.to_datetime(frame["local_time"]).to_numpy(dtype="datetime64[us]")),
        }
        columns |= {
            f: pa.array(frame[f].tolist(), pa.string(), from_pandas=True)
            for f in (*self.info.facets, *self.info.context)
        }
        columns |= {head: pa.nulls(len(frame), pa.bool_()) for head in self.info.heads}
        return pa.table({**columns, "timestamp": np.zeros(len(frame), dtype=np.int64)})

    def _attributes(self, frame: pd.DataFrame) -> AttributeKeys:
        """The rows' attributes; an age is that of a moment so long before the time 0."""
        fields, rows = self.info.attributes, np.arange(len(frame))
        told = {}
        for field in fields:
            values = frame[field.column].to_list()
            if field.type == "age":
                values = [None if value is None else -value for value in values]
            plain = [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
            told[field.column] = pa.array(plain, field.arrow.type, from_pandas=True)
        encoded = encode(fields, pa.table(told))
        owners: tuple[Owner, ...] = ("user", "item", "context")
        return attribute_keys(fields, dict.fromkeys(owners, encoded), dict.fromkeys(owners, rows), np.zeros(len(frame)))

    def _profiles(self, frame: pd.DataFrame) -> pa.Table:
        users = frame.drop_duplicates("user_id")
        users = users[users["events"].fillna(0) > 0]
        return pa.table(
            {name: pa.array(users[name].to_numpy(dtype=np.int64)) for name in ("user_id", "events", "finish")}
        )

    def _slots(self, frame: pd.DataFrame) -> pa.Table:
        if not self.ranker.time.needs_clock:
            return pa.table({})
        users = frame.drop_duplicates("user_id")
        columns: dict[str, object] = {
            "user_id": pa.array(np.repeat(users["user_id"].to_numpy(dtype=np.int64), self.slots)),
            "slot": pa.array(np.tile(np.arange(self.slots), len(users))),
        }
        for name in _clock_columns(self.info):
            kind = pa.string() if name.endswith("_values") else pa.float64()
            lists = [list(slot) for clock in users[name] for slot in _padded(clock, self.slots)]
            columns[name] = pa.chunked_array([pa.array(lists, pa.list_(kind))])
        counts = [
            n
            for events in users["slot_events"]
            for n in (events if events is not None and len(events) else [0] * self.slots)
        ]
        return pa.table({**columns, "events": pa.array(counts, pa.int64())})

    def _recent_behaviors(self, frame: pd.DataFrame) -> pa.Table:
        if not self.ranker.needs_recent_behaviors:
            return pa.table({})
        users = frame.drop_duplicates("user_id")
        columns = {
            n: [list(v) if v is not None else [] for v in users[c]]
            for n, c in zip(("items", "minutes"), RECENT_COLUMNS, strict=True)
        }
        lists = {n: pa.chunked_array([pa.array(v, pa.list_(pa.int64()))]) for n, v in columns.items()}
        return pa.table({"user_id": pa.array(users["user_id"].to_numpy(dtype=np.int64)), **lists})


def _clock_columns(info: StateInfo) -> list[str]:
    return [f"{facet}_{part}" for facet in info.facets for part in ("values", "scores")]


def _padded(clock: Any, count: int) -> list[Any]:
    slots = list(clock) if clock is not None else []
    if len(slots) not in {0, count}:
        raise DataError(f"a clock has {count} slots, this one {len(slots)}")
    return slots or [[]] * count


def load_model(folder: Path, base: RankerModel | None = None) -> RankerModel:
    """Load a state folder.

    Args:
        folder: of the state.
        base: the state that it builds on, where it does.

    Raises:
        CorruptStateError: its weights do not match their digest.
    """
    info, tensors = load_tensors(folder)
    if base is not None and info.builds_on:
        tensors = apply([ranker_tensors(base.ranker), tensors])
    return RankerModel(info, scoring_ranker(tensors, info))


def load_tensors(folder: Path) -> tuple[StateInfo, Tensors]:
    """What a state folder holds; ``CorruptStateError`` when its weights do not match their digest."""
    info = read_info(folder)
    weights = folder / WEIGHTS
    if not weights.exists() or digest_file(weights) != info.weights:
        raise CorruptStateError(f"{weights} is damaged or cut short; this model version cannot be used")
    return info, load_file(weights)


def _load_pyfunc(path: str) -> RankerModel:
    """Entry point of MLflow's loader."""
    return load_model(Path(path))


def signature(info: StateInfo) -> ModelSignature:
    """Input and output schema of a logged version."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.long, "user_id"),
        ColSpec(DataType.long, "item_id"),
        ColSpec(DataType.datetime, "local_time"),
        *(ColSpec(DataType.string, name, required=False) for name in (*info.facets, *info.context)),
        *(ColSpec(_kinds(Array, DataType)[field.type], field.column, required=False) for field in info.attributes),
        ColSpec(DataType.long, "events"),
        ColSpec(DataType.long, "finish"),
    ]
    ranker = untrained_ranker(info)
    if ranker.time.needs_clock:
        kinds = {"values": DataType.string, "scores": DataType.double}
        inputs += [
            ColSpec(Array(Array(kind)), f"{facet}_{part}") for facet in info.facets for part, kind in kinds.items()
        ]
        inputs.append(ColSpec(Array(DataType.long), "slot_events"))
    if ranker.needs_recent_behaviors:
        inputs += [ColSpec(Array(DataType.long), name) for name in RECENT_COLUMNS]
    return ModelSignature(Schema(inputs), Schema([ColSpec(DataType.float, head) for head in info.heads]))


def _kinds(array: Any, types: Any) -> dict[AttributeType, Any]:
    """MLflow's type of each type of attribute."""
    return {"category": types.string, "number": types.double, "age": types.double, "list": array(types.string)}


def input_example(info: StateInfo) -> pd.DataFrame:
    """One impression in the form that the model takes."""
    row: dict[str, object] = {"user_id": 1, "item_id": 1, "local_time": pd.Timestamp("2026-03-02T08:30:00")}
    row |= dict.fromkeys((*info.facets, *info.context), "value") | {"events": 10, "finish": 4}
    examples: dict[AttributeType, object] = {
        "category": "value",
        "number": 1.5,
        "age": 24.0,
        "list": ["value", "other"],
    }
    row |= {field.column: examples[field.type] for field in info.attributes}
    ranker = untrained_ranker(info)
    if ranker.needs_recent_behaviors:
        row |= dict(zip(RECENT_COLUMNS, ([1, 2], [29_540_000, 29_541_000]), strict=True))
    if ranker.time.needs_clock:
        filled = [slot == 8 for slot in range(info.ranker_config.slots)]
        for facet in info.facets:
            row[f"{facet}_values"] = [["value" if full else ""] for full in filled]
            row[f"{facet}_scores"] = [[2.0 if full else 0.0] for full in filled]
        row["slot_events"] = [3 if full else 0 for full in filled]
    return pd.DataFrame([row])
