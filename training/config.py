"""Everything that a trained state depends on besides its data: typed, validated, digested."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import ConfigError
from core.files import digest_json, digest_text
from core.settings import Settings

Variant = Literal["none", "hour_embedding", "naive_clock", "adaptive_clock", "gaussian_clock"]


class RankerConfig(BaseModel):
    """The ranker and how it learns.

    ``sigma_hours`` is the Gaussian's standard deviation; the paper takes 1 h. A slot is taken at
    ``slot_centre`` of its width after its start; the paper leaves that open. The slots are those of the clocks:
    24 of an hour in the paper, here as many as the settings say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: Variant
    dim: int = Field(16, ge=2, le=256, description="Width of every embedding.")
    hidden: tuple[int, ...] = Field((64, 32), description="Widths of the MLP's hidden layers.")
    cross_layers: int = Field(1, ge=0, le=4, description="Cross layers (DCN-v2) beside the MLP.")
    sigma_hours: float = Field(1.0, gt=0)
    slot_centre: float = Field(0.5, ge=0, lt=1)
    slot_minutes: int = Field(60, ge=1, le=24 * 60)
    split_weekend: bool = False
    batch_size: int = Field(256, ge=1)
    embedding_rate: float = Field(0.05, gt=0, description="Learning rate of the embeddings (row-wise Adagrad).")
    dense_rate: float = Field(0.002, gt=0, description="Learning rate of everything else (Adam).")
    seed: int = 2024

    @property
    def slots_per_day(self) -> int:
        return 24 * 60 // self.slot_minutes

    @property
    def slots(self) -> int:
        """Slots of a clock; with ``split_weekend`` those of Saturday and Sunday follow the others."""
        return self.slots_per_day * (2 if self.split_weekend else 1)

    @property
    def digest(self) -> str:
        return digest_json(self.model_dump(mode="json"))


def load_ranker_config(settings: Settings, variant: str) -> RankerConfig:
    """The config of a variant: ``training/ranker.yaml`` with the variant's own section on top.

    Raises:
        ConfigError: an unknown variant or a wrong value; the message names it.
    """
    path = Path(__file__).with_name("ranker.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    own = (content.pop("variants", None) or {}).get(variant) or {}
    try:
        slots = {"slot_minutes": settings.slot_minutes, "split_weekend": settings.split_weekend}
        return RankerConfig(**{"seed": settings.seed, **slots, **content, **own, "variant": variant})
    except (ValidationError, TypeError) as error:
        lines = (
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise ConfigError(f"ranker '{variant}' ({path.name}): {lines}") from None


def code_version() -> str:
    """Digest of the code that decides what a state becomes: a state names the code that made it."""
    names = ("config.py", "embedding.py", "ranker.py", "samples.py", "tensors.py", "time_perception.py", "trainer.py")
    folder = Path(__file__).parent
    return digest_text(*((folder / name).read_text(encoding="utf-8") for name in names))[:16]
