"""The promotion policy: when a candidate becomes champion, as its YAML file states it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from core.documents import StrictModel, load_document
from evaluation.predictions import ATTRIBUTE, CONTEXT, FACET
from stats.confidence import HIGHEST_CONFIDENCE

SLICES = ("local_hour", "weekday", "user_kind", "item_kind")
EVERY_FACET = "facet"


class Margins(StrictModel):
    """Where the lower end of a difference's interval must lie above. Points of AUC, 0 to 1."""

    auc_margin: float
    uauc_margin: float | None = Field(None, description="Without it UAUC is shown and not checked.")
    session_auc_margin: float | None = Field(None, description="Without it the session AUC is shown and not checked.")

    def of(self, metric: str) -> float | None:
        """The margin of a metric, None where it is not checked."""
        margin: float | None = getattr(self, f"{metric}_margin")
        return margin


class Guardrail(StrictModel):
    """No slice may be worse by more than ``max_drop``; slices below ``min_samples`` are not judged.

    ``by`` is one of ``SLICES``, ``facet_<name>``, ``context_<name>`` or ``attribute_<user or item>_<name>`` for the values of
    one, or ``facet`` for those of every one.
    """

    by: str = Field(pattern=rf"^({'|'.join(SLICES)}|{EVERY_FACET}|({FACET}|{CONTEXT}|{ATTRIBUTE}).+)$")
    metric: Literal["auc", "uauc", "gauc", "session_auc"] = "auc"
    max_drop: float = Field(gt=0, le=1)
    min_samples: int = Field(300, ge=1)


class Calibration(StrictModel):
    """Limits on the candidate's own calibration."""

    max_error: float = Field(0.2, gt=0, le=1)
    ratio: tuple[float, float] = (0.7, 1.4)


class Policy(StrictModel):
    """When a candidate becomes champion; see ``evaluation/policy.yaml`` for what each key means."""

    min_hours: int = Field(4, ge=1)
    max_hours: int = Field(24, ge=1)
    min_samples: int = Field(2000, ge=1)
    min_users: int = Field(100, ge=2)
    confidence: float = Field(0.95, gt=0.5, le=HIGHEST_CONFIDENCE)
    another_variant: Margins = Margins(auc_margin=0.0, uauc_margin=-0.01)
    same_variant: Margins = Margins(auc_margin=-0.005, uauc_margin=-0.02)
    guardrails: tuple[Guardrail, ...] = ()
    calibration: Calibration = Calibration()
    max_age_hours: int = Field(72, ge=1)
    max_drift_share: float = Field(0.7, gt=0, le=1)
    require_approval: bool = False
    rollback_hours: int = Field(6, ge=1)

    @model_validator(mode="after")
    def _hours(self) -> Policy:
        if self.max_hours < self.min_hours:
            raise ValueError(f"max_hours {self.max_hours} is below min_hours {self.min_hours}")
        return self


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file; ``ConfigError`` names the wrong key."""
    return load_document(path or Path(__file__).with_name("policy.yaml"), Policy, what="policy file")
