"""An experiment as somebody fills in a form; it gives the text of the file that the same person would have written."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from ab_analysis.experiment import Experiment
from ab_analysis.experiment_text import format_keys
from core.documents import JsonObject, StrictModel, did_you_mean
from core.errors import ConfigError

DEFAULTS = Experiment.model_fields


class ExperimentForm(StrictModel):
    """The fields of the form; a field that is left empty is left out of the file, which then has the default.

    Attributes:
        variants: ``name: share`` each; the first is the control.
        models: ``variant: model`` each.
        guardrails: metrics that may get worse by at most ``max_worse``.
        max_worse, minimum_effect, confidence, power: percent.
        layer_from, layer_to: of the users of ``layer``, percent.
        further: other keys of the file as YAML.
    """

    name: str
    hypothesis: str | None = None
    owner: str | None = None
    variants: list[str]
    models: list[str] | None = None
    automatic_stop: bool = False
    holdout: bool = False
    layer: str | None = None
    layer_from: float = 0.0
    layer_to: float = 100.0
    start: date
    end: date | None = None
    pre_days: int = DEFAULTS["pre_days"].default
    population: str | None = None
    trigger: str | None = None
    primary: list[str]
    secondary: list[str] | None = None
    guardrails: list[str] | None = None
    max_worse: float = 0.0
    minimum_effect: float = 100 * DEFAULTS["minimum_effect"].default
    power: float = 100 * DEFAULTS["power"].default
    confidence: float = 100 * DEFAULTS["confidence"].default
    rule: Literal["fixed", "always_valid", "group_sequential"] = "always_valid"
    further: str | None = None

    @classmethod
    def read(cls, values: JsonObject) -> ExperimentForm:
        """The form from what was filled in.

        Raises:
            ConfigError: names every field that is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fields = set(cls.model_fields)
            problems = [
                f"{'.'.join(map(str, e['loc']))}: "
                + (
                    f"no such field{did_you_mean(str(e['loc'][-1]), fields)}"
                    if e["type"] == "extra_forbidden"
                    else e["msg"]
                )
                for e in error.errors()
            ]
            raise ConfigError(f"the form has {len(problems)} problem(s): {'; '.join(problems)}") from None

    def text(self) -> str:
        """Text of the experiment file.

        Raises:
            ConfigError: a line of the form is not ``name: value``.
        """
        shares = self._pairs("variants", self.variants)
        values: dict[str, Any] = {
            "name": self.name.strip(),
            "hypothesis": (self.hypothesis or "").strip(),
            "owner": (self.owner or "").strip(),
            "variants": shares,
            "control": next(iter(shares), ""),
            "models": self._pairs("models", self.models or []),
            "automatic_stop": self.automatic_stop,
            "layer": {"name": self.layer.strip(), "start": _share(self.layer_from), "end": _share(self.layer_to)}
            if self.layer and self.layer.strip()
            else None,
            "holdout": self.holdout,
            "start": self.start,
            "end": self.end,
            "pre_days": self.pre_days,
            "population": (self.population or "").strip(),
            "trigger": (self.trigger or "").strip(),
            "primary": self.primary,
            "secondary": self.secondary or [],
            "guardrails": {metric: {"max_worse": _share(self.max_worse)} for metric in self.guardrails or []},
            "minimum_effect": _share(self.minimum_effect),
            "power": _share(self.power),
            "confidence": _share(self.confidence),
            "stopping": {"rule": self.rule},
        }
        always = {"name", "variants", "control", "start", "primary", "secondary", "minimum_effect", "stopping"}
        kept = {
            key: value
            for key, value in values.items()
            if key in always or (value not in ("", None, {}, False) and value != DEFAULTS[key].default)
        }
        further = (self.further or "").strip("\r\n").rstrip()
        return format_keys(kept) + (f"{further}\n" if further else "")

    @staticmethod
    def _pairs(field: str, lines: list[str]) -> dict[str, Any]:
        """``name: value`` of each line that is not empty; values as YAML reads them."""
        pairs: dict[str, Any] = {}
        for line in lines:
            name, colon, value = (part.strip() for part in line.partition(":"))
            if not line.strip():
                continue
            if not (name and colon and value):
                raise ConfigError(f"{field}: '{line}' is not of the form name: value, such as control: 50")
            if name in pairs:
                raise ConfigError(f"{field}: '{name}' appears twice")
            try:
                pairs[name] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise ConfigError(f"{field}: '{value}' of '{name}' cannot be read") from None
        return pairs


def _share(percent: float) -> float:
    """Percent as a share, without what binary fractions add to it.

    >>> _share(0.7), _share(29.0)
    (0.007, 0.29)
    """
    return round(percent / 100, 12)
