"""An experiment together with the metrics that it needs, checked against the catalog and the source's facets."""

from __future__ import annotations

from collections.abc import Mapping

from ab_analysis.experiment import Experiment
from ab_analysis.metrics import EVENT_COLUMNS, Metric, check_types, closure, columns_of, load_catalog
from core.documents import did_you_mean
from core.errors import ConfigError
from core.settings import Settings
from events.schema import USER_COLUMNS


class ExperimentPlan:
    """An experiment with the metrics that it needs, checked against the catalog and the source's facets.

    Attributes:
        experiment: content of the experiment file.
        metrics: every metric needed, parts first.
        facets: names of the source's facets.
    """

    def __init__(self, experiment: Experiment, catalog: Mapping[str, Metric], facets: tuple[str, ...] = ()) -> None:
        self.experiment, self.facets = experiment, facets
        if clashing := [f for f in facets if f.lower() in {*EVENT_COLUMNS, *USER_COLUMNS}]:
            raise ValueError(
                f"the source's facets {clashing} have names of columns of experiments; rename them in the mapping"
            )
        required = [
            *experiment.tested_metrics,
            *(c for group in experiment.covariates.values() for c in group),
            *(s.of for s in experiment.segments.values() if s.of),
            "active_days",
        ]
        self.metrics = closure(dict.fromkeys(required), {**catalog, **experiment.metrics})
        self._check_columns({*EVENT_COLUMNS, *facets})
        self._check_parts(facets)
        self._check_types(facets)

    def _check_columns(self, event_columns: set[str]) -> None:
        experiment = self.experiment
        texts = [t for m in self.metrics.values() if (t := m.sum or m.count or m.days)]
        for text in (*texts, *([experiment.trigger] if experiment.trigger else [])):
            for column in sorted(columns_of(text) - event_columns):
                raise ValueError(f"'{text}': events have no column '{column}'{did_you_mean(column, event_columns)}")
        usable = {"is_new", *experiment.segments, *(f"{m}_pre" for m in self.additive)}
        for column in sorted(columns_of(experiment.population or "true") - usable):
            raise ValueError(
                f"population: '{column}' is not known before the start{did_you_mean(column, usable)} "
                f"(choose from {', '.join(sorted(usable))})"
            )

    def _check_types(self, facets: tuple[str, ...]) -> None:
        event_types = {**EVENT_COLUMNS, **dict.fromkeys(facets, "VARCHAR")}
        expressions = {
            f"metric {name}": (text, m.sum is not None)
            for name, m in self.metrics.items()
            if (text := m.sum or m.count or m.days)
        }
        if self.experiment.trigger:
            expressions["trigger"] = (self.experiment.trigger, False)
        check_types(expressions, event_types)
        if self.experiment.population:
            user_types = {
                "is_new": "BOOLEAN",
                **dict.fromkeys(self.experiment.segments, "VARCHAR"),
                **dict.fromkeys((f"{m}_pre" for m in self.additive), "DOUBLE"),
            }
            check_types({"population": (self.experiment.population, False)}, user_types)

    def _check_parts(self, facets: tuple[str, ...]) -> None:
        parts = {f"segment {n}": s.of for n, s in self.experiment.segments.items() if s.of}
        parts |= {f"covariate of {m}": c for m, group in self.experiment.covariates.items() for c in group}
        for where, name in parts.items():
            if not self.metrics[name].additive:
                raise ValueError(f"{where}: '{name}' is not a sum, a count or days")
        for name, segment in self.experiment.segments.items():
            if segment.top and segment.top not in facets:
                raise ValueError(
                    f"segment {name}: the source has no facet '{segment.top}' (it has {', '.join(facets)})"
                )

    @property
    def additive(self) -> dict[str, Metric]:
        return {name: m for name, m in self.metrics.items() if m.additive}

    @property
    def retained(self) -> dict[str, int]:
        """Metric of the kind ``retained`` → number of the local day after the first that it asks for."""
        return {name: m.retained for name, m in self.metrics.items() if m.retained is not None}

    @property
    def top_facets(self) -> list[str]:
        """Facets whose most frequent value is a segment, each once."""
        return list(dict.fromkeys(s.top for s in self.experiment.segments.values() if s.top))


def make_plan(settings: Settings, experiment: Experiment, facets: tuple[str, ...]) -> ExperimentPlan:
    """An experiment with its metrics from the catalog and the workspace's ``metrics.yaml``.

    Args:
        settings: name the workspace.
        experiment: content of the experiment file.
        facets: names of the source's facets.

    Raises:
        ConfigError: the experiment names a metric, a column or a segment that does not exist.
    """
    try:
        return ExperimentPlan(experiment, load_catalog(settings.workspace / "metrics.yaml"), facets)
    except ValueError as error:
        raise ConfigError(f"experiment '{experiment.name}': {error}") from None
