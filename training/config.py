"""Everything that a trained state depends on besides its data: typed, validated, digested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from core.documents import JsonObject, StrictModel, did_you_mean, load_document
from core.errors import ConfigError
from core.files import digest_json, digest_text
from core.settings import Settings
from training.sightings import MOST_SIGHTINGS, PARTITIONS

Variant = Literal[
    "none",
    "hour_embedding",
    "cyclic",
    "naive_clock",
    "adaptive_clock",
    "gaussian_clock",
    "long_term_clock",
    "matched_clock",
]
OF_SETTINGS = ("seed", "slot_minutes", "split_weekend", "top_k", "history_length")
"""What a ranker takes from the settings, where its own file is silent."""
LABEL = "finish"
"""The behavior that metrics and promotion look at; the source's first one where it has no finish."""


class RankerOptions(StrictModel):
    """What a ranker file may say: the ranker and how it learns.

    ``sigma_hours`` is the Gaussian's standard deviation; the paper takes 1 h. A slot is taken at
    ``slot_centre`` of its width after its start; the paper leaves that open. The slots are those of the clocks:
    24 of an hour in the paper, here as many as the settings say.
    """

    dim: int = Field(16, ge=2, le=256, description="Width of every embedding.")
    hidden: tuple[Annotated[int, Field(ge=1, le=1 << 16)], ...] = Field(
        (64, 32), description="Widths of the MLP's hidden layers."
    )
    cross_layers: int = Field(1, ge=0, le=4, description="Cross layers (DCN-v2) beside the MLP.")
    experts: int = Field(
        0, ge=0, le=16, description="MLPs that each head mixes with its own gate (MMoE); 0: one, shared."
    )
    sigma_hours: float = Field(1.0, gt=0, le=24)
    learn_sigma: bool = Field(False, description="gaussian_clock: train a σ for each facet, from sigma_hours on.")
    slot_centre: float = Field(0.5, ge=0, lt=1)
    slot_minutes: int = Field(60, ge=1, le=24 * 60)
    split_weekend: bool = False
    top_k: int = Field(3, ge=1, le=10)
    history_length: int = Field(100, ge=0, le=1000, description="Recent behaviors of a user that are read.")
    sequence: Literal["none", "din"] = Field("none", description="din: attention over the recent behaviors.")
    attention_heads: int = Field(2, ge=1, le=16, description="long_term_clock: heads.")
    picked: int = Field(20, ge=1, description="long_term_clock: behaviors that are attended to.")
    target_statistics: bool = Field(
        False, description="Smoothed rates and counts of the user, the item, its facets and the context as inputs."
    )
    expire_days: int = Field(180, ge=1, description="Ids unseen for longer give their rows back.")
    admit_after: int = Field(
        1,
        ge=1,
        le=MOST_SIGHTINGS,
        description="Samples of a user or an item before it has a row of its own; until then it trains the row of unknown ids.",
    )
    admission_cells: int = Field(
        1 << 22,
        ge=16 * PARTITIONS,
        le=1 << 30,
        multiple_of=PARTITIONS,
        description="Cells that count these samples, for users and for items; 6 for each new id of a day is plenty. A cell takes 2 bytes.",
    )
    batch_size: int = Field(256, ge=1)
    embedding_rate: float = Field(0.1, gt=0, description="Learning rate of the embeddings (row-wise Adagrad).")
    accumulator_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Adagrad's sum of a row is multiplied by it in each hour that trains the row. 1: sums only grow.",
    )
    dense_rate: float = Field(0.002, gt=0, description="Learning rate of everything else (Adam).")
    average_hours: float = Field(
        0.0,
        ge=0,
        le=24 * 365,
        description="Scores are by an exponential moving average of the dense weights at the ends of hours; its half-life in hours "
        "that are trained on. Training goes on from the weights as they are. 0: scores are by these too.",
    )
    embedding_penalty: float = Field(
        0.0, ge=0, description="L2: times the squared embeddings of a batch, each row once, over its samples."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Labels are trained on as this much nearer to ½.")
    session_loss: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Weight of a ranking loss within sessions, beside the cross-entropy: a positive against the negatives that the "
        "user was shown in the same hour and batch. 0: none.",
    )
    threads: int = Field(
        1, ge=1, le=64, description="Threads of a training process. Sums in another order end in other bits."
    )
    seed: int = Field(2024, ge=0, lt=2**31)


class RankerFile(RankerOptions):
    """``ranker.yaml``: options for every variant, and under ``variants`` for single ones."""

    variants: dict[Variant, RankerOptions] = Field(default_factory=dict)


class RankerConfig(RankerOptions):
    """A variant with its options."""

    variant: Variant

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

    @model_validator(mode="after")
    def _whole(self) -> RankerConfig:
        if self.dim % self.attention_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of attention_heads {self.attention_heads}")
        if not self.history_length and (self.sequence != "none" or self.variant == "long_term_clock"):
            raise ValueError(f"{self.variant} reads the recent behaviors, and history_length is 0")
        return self


def label_of(heads: Sequence[str]) -> str:
    """The head that metrics, promotion and the time_of_day_counts look at."""
    return LABEL if LABEL in heads else heads[0]


def check_variant(variant: str) -> None:
    """Raise ``ConfigError``, with the nearest name, unless a variant has this name."""
    if variant not in get_args(Variant):
        raise ConfigError(
            f"no variant '{variant}'{did_you_mean(variant, get_args(Variant))} (choose from {', '.join(get_args(Variant))})"
        )


def load_ranker_config(settings: Settings, variant: str) -> RankerConfig:
    """The config of a variant: the ranker file with the variant's own section on top.

    The file is the workspace's ``ranker.yaml`` where there is one, else that of this package.

    Raises:
        ConfigError: an unknown variant or a wrong value; the message names it, with its line where it has one.
    """
    check_variant(variant)
    workspace_file = settings.workspace / "ranker.yaml"
    path = workspace_file if workspace_file.exists() else Path(__file__).with_name("ranker.yaml")
    file = load_document(path, RankerFile, what="ranker file")
    options = file.model_dump(exclude_unset=True, exclude={"variants"})
    if variant in file.variants:
        options |= file.variants[variant].model_dump(exclude_unset=True)
    _check_clocks(settings, options, f"ranker '{variant}' ({path})")
    try:
        return RankerConfig(
            **{**{name: getattr(settings, name) for name in OF_SETTINGS}, **options, "variant": variant}
        )
    except ValidationError as error:
        lines = "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())
        raise ConfigError(f"ranker '{variant}' ({path}): {lines}") from None


def _check_clocks(settings: Settings, options: JsonObject, where: str) -> None:
    """Raise ``ConfigError`` where options ask for other clocks than those that the settings have computed."""
    for name in ("slot_minutes", "split_weekend"):
        if name in options and options[name] != getattr(settings, name):
            raise ConfigError(
                f"{where}: {name} {options[name]} is not that of the clocks, {getattr(settings, name)}; leave it out, and set "
                f"CLOCK_{name.upper()} for clocks and rankers alike"
            )
    for name in ("top_k", "history_length"):
        most = getattr(settings, name)
        if options.get(name, most) > most:
            raise ConfigError(
                f"{where}: {name} {options[name]} is more than the {most} that are kept; set CLOCK_{name.upper()} to as many"
            )


def check_variants(settings: Settings, *, first: bool = False) -> None:
    """Check what the settings and the ranker file say of the variants, before anything is computed with it.

    Args:
        settings: of the workspace.
        first: a first champion is to be offered as well.

    Raises:
        ConfigError: an unknown variant, a wrong option, or a variant that is to be offered and is not trained.
    """
    for variant in settings.variants:
        load_ranker_config(settings, variant)
    for role in ("candidate_variant", *(["baseline_variant"] if first else [])):
        variant = getattr(settings, role)
        if variant not in settings.variants:
            raise ConfigError(
                f"CLOCK_{role.upper()} is '{variant}', which is not among CLOCK_VARIANTS ({', '.join(settings.variants)}) and "
                "would never be offered; add it there, or choose one of them"
            )


NOT_TRAINING = frozenset({"tracking.py", "model.py", "running.py", "running_samples.py", "__init__.py"})


def code_version() -> str:
    """Digest of the code that decides what a state becomes: a state names the code that made it."""
    folder = Path(__file__).parent
    files = sorted(p for p in folder.rglob("*.py") if p.name not in NOT_TRAINING)
    return digest_text(*(path.read_text(encoding="utf-8") for path in files))[:16]
