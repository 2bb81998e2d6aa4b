"""A decision of the promotion gate: its verdict, its checks and their figures, as files and pages hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from core.documents import JsonObject

Verdict = Literal["promote", "keep", "wait", "needs_person", "refuse"]


@dataclass(frozen=True)
class ModelVersion:
    """A registered version in front of the gate.

    Attributes:
        version: its number in the registry.
        variant: of its ranker.
        trained_until: key of the last hour that it was trained on.
    """

    version: str
    variant: str
    trained_until: str


@dataclass(frozen=True)
class GateCheck:
    """One figure against its limit.

    Attributes:
        name: what was checked.
        passed: whether the figure keeps the limit.
        value: the figure; for differences candidate minus reference.
        limit: of the policy.
        interval: of the figure, corrected for the number of looks (and of slices); None where it has none.
    """

    name: str
    passed: bool
    value: float
    limit: float
    interval: tuple[float, float] | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> GateCheck:
        """A check as a decision's JSON holds it."""
        low_high = content["interval"]
        return cls(**{**content, "interval": (low_high[0], low_high[1]) if low_high else None})


@dataclass(frozen=True)
class SideFigures:
    """One side's metrics over the hours compared; ``session_auc`` is None where no session has both labels."""

    auc: float
    uauc: float
    logloss: float
    samples: int
    session_auc: float | None = None


@dataclass(frozen=True)
class DifferenceFigures:
    """A difference, candidate minus reference; ``interval`` is corrected for the number of looks, the p-value is not."""

    value: float
    interval: list[float]
    p_value_one_look: float


@dataclass(frozen=True)
class GateFigures:
    """What the checks were computed from, for readers of the decision's file.

    Attributes:
        rival: the reference's metrics.
        z_limit: standard errors that an interval takes to each side of its difference.
        session_auc_difference: None where no session has both labels, and in decisions of versions before this figure.
    """

    candidate: SideFigures
    rival: SideFigures
    z_limit: float
    auc_difference: DifferenceFigures
    uauc_difference: DifferenceFigures
    session_auc_difference: DifferenceFigures | None = None

    def difference(self, metric: str) -> DifferenceFigures | None:
        """The difference in one of ``JUDGED``."""
        figures: DifferenceFigures | None = getattr(self, f"{metric}_difference")
        return figures

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> GateFigures:
        """The figures as a decision's JSON holds them."""
        session_auc = content.get("session_auc_difference")
        return cls(
            candidate=SideFigures(**content["candidate"]),
            rival=SideFigures(**content["rival"]),
            z_limit=content["z_limit"],
            auc_difference=DifferenceFigures(**content["auc_difference"]),
            uauc_difference=DifferenceFigures(**content["uauc_difference"]),
            session_auc_difference=DifferenceFigures(**session_auc) if session_auc else None,
        )


@dataclass(frozen=True)
class GateDecision:
    """What the gate decided, and on what.

    Attributes:
        verdict: ``promote``, ``keep`` (the champion), ``wait`` (not decided yet), ``needs_person``,
            ``refuse`` (the evaluation itself is broken).
        reason: one sentence.
        hours: hours compared; none was in the training of either version.
        figures: what the checks were computed from; None (in JSON an empty object) where nothing was compared.
        hourly: hour → AUC of candidate and reference, for the plot.
    """

    verdict: Verdict
    reason: str
    candidate: ModelVersion
    champion: ModelVersion | None
    hours: tuple[str, ...]
    checks: tuple[GateCheck, ...] = ()
    figures: GateFigures | None = None
    hourly: dict[str, tuple[float, float]] = field(default_factory=dict)

    def as_json(self) -> JsonObject:
        """Plain values, for a file or an XCom."""
        content = asdict(self)
        return {**content, "figures": content["figures"] or {}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> GateDecision:
        """A decision from its JSON form (``as_json``)."""
        champion = content["champion"]
        return cls(
            verdict=content["verdict"],
            reason=content["reason"],
            candidate=ModelVersion(**content["candidate"]),
            champion=ModelVersion(**champion) if champion else None,
            hours=tuple(content["hours"]),
            checks=tuple(GateCheck.from_json(check) for check in content["checks"]),
            figures=GateFigures.from_json(content["figures"]) if content["figures"] else None,
            hourly={hour: (pair[0], pair[1]) for hour, pair in content["hourly"].items()},
        )
