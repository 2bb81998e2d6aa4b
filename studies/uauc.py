"""Does UAUC mean what it says where features move hour by hour, and what does the gate's check of it do?

The truth is known: a user's rate is constant, so the user's own past rate cannot rank what the user is shown together. The
gate's part runs ``evaluation.gate.judge`` hour by hour on candidates that truly are better, or are not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal, TypedDict

import numpy as np
import pyarrow as pa
from scipy.special import expit, logit

from core.hours import Hour
from core.settings import Settings
from evaluation.gate import Scored, judge
from evaluation.gate_decision import ModelVersion
from evaluation.metrics import JUDGED, METRICS
from evaluation.policy import Margins, Policy, load_policy
from evaluation.predictions import Predictions
from studies.charts import curves
from studies.paired import Figure
from studies.study import Section, Study

SEED = 20261127
START = Hour.parse("2026-03-02T00")
MEAN_LOGIT, USERS_DIFFER, PRIOR = -0.7, 1.0, 4.0
"""Of the users' rates, and the pseudo-impressions that a running rate starts with."""
SHARED_NOISE = 0.8
"""Share of the rankers' noise that they have in common."""
MARGIN = -0.01
"""Of UAUC and of session AUC; that of AUC is 0."""
UserTerm = Literal["none", "running", "long_run"]


@dataclass(frozen=True)
class World:
    """What happens: users with constant rates, visits at random, items of random appeal.

    Attributes:
        users: number of users.
        hours: in which they visit.
        visit_chance: of a user in an hour; so a user's hour is a request.
        shown: impressions of a visit.
        history: mean number of earlier impressions that a running rate knows of each user.
    """

    users: int
    hours: int
    visit_chance: float
    shown: int
    history: float = 0.0


@dataclass(frozen=True)
class RankerSpec:
    """How a ranker scores.

    Attributes:
        skill: correlation of its guess of an item's appeal with the truth.
        user: what it knows of a user's rate: nothing, the rate up to the hour's start, or the constant truth.
    """

    skill: float
    user: UserTerm


@dataclass(frozen=True)
class Impressions:
    """All impressions of a world, in order of time; every array has the shape (rows,).

    Attributes:
        running_rate: of the user up to the hour's start, smoothed.
        noise: of the guesses that all rankers share.
    """

    hour: np.ndarray
    user: np.ndarray
    label: np.ndarray
    user_logit: np.ndarray
    appeal: np.ndarray
    running_rate: np.ndarray
    noise: np.ndarray

    @classmethod
    def draw(cls, world: World, rng: np.random.Generator) -> Impressions:
        """Draw what happens in a world."""
        logits = MEAN_LOGIT + USERS_DIFFER * rng.normal(size=world.users)
        hour, user = np.nonzero(rng.uniform(size=(world.hours, world.users)) < world.visit_chance)
        hour, user = np.repeat(hour, world.shown), np.repeat(user, world.shown)
        appeal = rng.normal(size=len(user))
        label = rng.uniform(size=len(user)) < expit(logits[user] + appeal)
        seen = np.zeros((2, world.hours + 1, world.users))
        seen[0, 0] = rng.poisson(world.history, world.users)
        seen[1, 0] = rng.binomial(seen[0, 0].astype(np.int64), _mean_rate(logits))
        np.add.at(seen[0], (hour + 1, user), 1)
        np.add.at(seen[1], (hour + 1, user), label)
        shown, positive = seen.cumsum(axis=1)[:, hour, user]
        usual = _mean_rate(np.array([MEAN_LOGIT]))[0]
        rate = (positive + PRIOR * usual) / (shown + PRIOR)
        return cls(hour, user, label.astype(np.int8), logits[user], appeal, rate, rng.normal(size=len(user)))

    def scores(self, ranker: RankerSpec, rng: np.random.Generator) -> np.ndarray:
        """A ranker's probabilities. Its guess of the appeal has noise that the rankers share, and noise of its own."""
        noise = math.sqrt(SHARED_NOISE) * self.noise + math.sqrt(1 - SHARED_NOISE) * rng.normal(size=len(self.user))
        guess = ranker.skill * self.appeal + math.sqrt(1 - ranker.skill**2) * noise
        terms: dict[UserTerm, np.ndarray | float] = {
            "none": MEAN_LOGIT,
            "running": logit(self.running_rate),
            "long_run": self.user_logit,
        }
        return expit(terms[ranker.user] + ranker.skill * guess)

    def predictions(self, scores: np.ndarray) -> Predictions:
        """Scores of these impressions with their sessions."""
        return Predictions.of(self.user, self.label, scores, sessions=self.hour)


@dataclass(frozen=True)
class Case:
    """A comparison before the gate."""

    title: str
    champion: RankerSpec
    candidate: RankerSpec


CASES = (
    Case("ranks better, both follow the user's rate", RankerSpec(0.5, "running"), RankerSpec(0.65, "running")),
    Case("ranks better, and follows the user's rate", RankerSpec(0.5, "none"), RankerSpec(0.65, "running")),
    Case("ranks as well, and follows the user's rate", RankerSpec(0.5, "none"), RankerSpec(0.5, "running")),
    Case("ranks worse, and follows the user's rate", RankerSpec(0.5, "none"), RankerSpec(0.35, "running")),
    Case("ranks worse, and follows it no longer", RankerSpec(0.5, "running"), RankerSpec(0.35, "long_run")),
    Case("no difference, both follow the user's rate", RankerSpec(0.5, "running"), RankerSpec(0.5, "running")),
)
CHECKS = {
    "UAUC": Margins(auc_margin=0.0, uauc_margin=MARGIN),
    "session AUC": Margins(auc_margin=0.0, session_auc_margin=MARGIN),
    "both": Margins(auc_margin=0.0, uauc_margin=MARGIN, session_auc_margin=MARGIN),
}
"""What is checked beside AUC."""
KEPT_AT_ONCE = 10
DAYS = (1, 2, 4, 7, 14)
BIAS_WORLD = World(users=5000, hours=0, visit_chance=0.04, shown=2)
LOOKS = 8
"""Hours that a candidate has; the built-in policy's are three times as many, and cost ten times as much to simulate."""
GATE_WORLD = World(users=900, hours=LOOKS, visit_chance=0.3, shown=6, history=9)
TRUTH_WORLD = replace(GATE_WORLD, users=20_000)


class MetricFigure(TypedDict):
    """A metric with its 95 % interval by user."""

    value: float
    interval: tuple[float, float]


class CaseResult(TypedDict):
    """What the gate did in a case.

    Attributes:
        truth: metric → the true difference, measured on a world of many users.
        deserved: whether AUC is truly better and session AUC not worse by the margin or more.
        promoted: what is checked → comparisons that ended with a promotion.
    """

    truth: dict[str, float]
    deserved: bool
    promoted: dict[str, int]


def run(settings: Settings, *, replications: int = 100) -> tuple[str, str]:
    """Run the study; returns the conclusion and the path of the page.

    Args:
        settings: of the platform.
        replications: comparisons of each case before the gate.
    """
    study = Study(settings, "uauc")
    worlds = {"seed": SEED, "world": asdict(BIAS_WORLD)}
    bias = {days: study.part(f"bias_{days}", {**worlds, "days": days}, partial(measure_bias, days)) for days in DAYS}
    gate = {case.title: judge_case(study, number, replications) for number, case in enumerate(CASES)}
    conclusion = conclude(bias, gate, replications)
    results = {
        "bias": {str(days): figures for days, figures in bias.items()},
        "gate": gate,
        "replications": replications,
    }
    command = f"clock study uauc --replications {replications}"
    return conclusion, str(study.write(conclusion, sections(bias, gate, replications), results, command))


def measure_bias(days: int) -> dict[str, dict[str, MetricFigure]]:
    """Score → metric → value, over so many days in which users with constant rates visit about once a day."""
    rng = np.random.default_rng([SEED, 1, days])
    seen = Impressions.draw(replace(BIAS_WORLD, hours=24 * days), rng)
    scores = {
        "the user's rate so far": seen.running_rate,
        "the user's true rate": expit(seen.user_logit),
        "the item's appeal": seen.scores(RankerSpec(0.5, "none"), rng),
        "appeal and the user's rate so far": seen.scores(RankerSpec(0.5, "running"), rng),
        "appeal and the user's true rate": seen.scores(RankerSpec(0.5, "long_run"), rng),
    }
    figures: dict[str, dict[str, MetricFigure]] = {}
    for name, values in scores.items():
        data = seen.predictions(values)
        estimates = {metric: METRICS[metric](data) for metric in (*JUDGED, "gauc")}
        figures[name] = {m: {"value": e.value, "interval": e.interval()} for m, e in estimates.items()}
    return figures


def judge_case(study: Study, number: int, replications: int) -> CaseResult:
    """Let the gate decide about a case's candidate in many worlds; finished worlds are kept, ``KEPT_AT_ONCE`` at a time."""
    case, promoted = CASES[number], Counter[str]()
    depends = {"seed": SEED, "case": asdict(case), "world": asdict(GATE_WORLD), "looks": LOOKS, "margin": MARGIN}
    truth = study.part(f"truth_{number}", {**depends, "truth": asdict(TRUTH_WORLD)}, partial(true_differences, case))
    for first in range(0, replications, KEPT_AT_ONCE):
        trials = range(first, min(first + KEPT_AT_ONCE, replications))
        part = f"gate_{number}_{first}"
        promoted.update(study.part(part, {**depends, "trials": len(trials)}, partial(promotions, number, trials)))
    deserved = truth["auc"] > 0 and truth["session_auc"] > MARGIN
    return {"truth": truth, "deserved": deserved, "promoted": {name: promoted[name] for name in CHECKS}}


def promotions(number: int, trials: range) -> dict[str, int]:
    """What is checked → how many worlds end with a promotion; the gate looks hour by hour, by each of ``CHECKS``."""
    promoted = dict.fromkeys(CHECKS, 0)
    for trial in trials:
        rng = np.random.default_rng([SEED, 2, number, trial])
        hourly = _hourly(Impressions.draw(GATE_WORLD, rng), CASES[number], rng)
        for name, margins in CHECKS.items():
            promoted[name] += _is_promoted(policy_with(margins), hourly)
    return promoted


def true_differences(case: Case) -> dict[str, float]:
    """The case's differences in a world of many users; 0 where candidate and champion are the same kind of ranker."""
    if case.candidate == case.champion:
        return dict.fromkeys(JUDGED, 0.0)
    rng = np.random.default_rng([SEED, 3])
    seen = Impressions.draw(TRUTH_WORLD, rng)
    champion, candidate = (seen.predictions(seen.scores(r, rng)) for r in (case.champion, case.candidate))
    return {metric: METRICS[metric](candidate).value - METRICS[metric](champion).value for metric in JUDGED}


def policy_with(margins: Margins) -> Policy:
    """The built-in policy with these margins; the simulated predictions have no slices for its guardrails."""
    return load_policy().model_copy(update={"another_variant": margins, "guardrails": (), "max_hours": LOOKS})


def _hourly(seen: Impressions, case: Case, rng: np.random.Generator) -> dict[Hour, Scored]:
    tables = [
        pa.table({"event_id": np.arange(len(seen.user)), "user_id": seen.user, "label": seen.label, "score": scores})
        for scores in (seen.scores(case.candidate, rng), seen.scores(case.champion, rng))
    ]
    bounds = np.searchsorted(seen.hour, np.arange(GATE_WORLD.hours + 1))
    return {
        START + (n + 1): Scored(*(t.slice(bounds[n], bounds[n + 1] - bounds[n]) for t in tables))
        for n in range(GATE_WORLD.hours)
    }


def _is_promoted(policy: Policy, hourly: Mapping[Hour, Scored]) -> bool:
    candidate, champion = ModelVersion("2", "candidate", START.key), ModelVersion("1", "champion", START.key)
    hours = sorted(hourly)
    for seen in range(policy.min_hours, policy.max_hours + 1):
        verdict = judge(policy, candidate, champion, {h: hourly[h] for h in hours[:seen]}).verdict
        if verdict != "wait":
            return verdict == "promote"
    return False


def conclude(
    bias: Mapping[int, dict[str, dict[str, MetricFigure]]], gate: Mapping[str, CaseResult], replications: int
) -> str:
    """The study's answer, in sentences."""
    week = bias[7]["the user's rate so far"]
    sentence = (
        f"Over seven days a user's own rate so far, which ranks nothing, has a UAUC of {week['uauc']['value']:.3f} and a "
        f"session AUC of {week['session_auc']['value']:.3f}."
    )
    for name in CHECKS:
        missed, wrong = (
            [r["promoted"][name] for r in gate.values() if r["deserved"] == deserved] for deserved in (True, False)
        )
        sentence += (
            f" With AUC and {'both others' if name == 'both' else name} checked, the gate misses "
            f"{share_text(replications * len(missed) - sum(missed), replications * len(missed))} of the candidates that "
            f"deserve it and promotes {share_text(sum(wrong), replications * len(wrong))} of those that do not."
        )
    return sentence


def sections(
    bias: Mapping[int, dict[str, dict[str, MetricFigure]]], gate: Mapping[str, CaseResult], replications: int
) -> list[Section]:
    """Of the study's page."""
    lines = {
        name: [(float(days), _figure(figures[name]["uauc"])) for days, figures in bias.items()]
        for name in bias[DAYS[0]]
    }
    chart = curves(
        lines,
        "days evaluated together",
        "UAUC",
        "UAUC by days evaluated together, of scores whose worth is known",
        log=True,
    )
    return [
        Section(
            "Scores whose worth is known",
            "Users with constant rates visit about once a day and see two items. Seven days evaluated together; intervals by user.",
            ("score", *JUDGED.values(), "GAUC"), bias_rows(bias[7]), [chart],
        ),
        Section(
            "What the gate does",
            "Share of candidates that the gate promotes within its hours, by what is checked beside AUC.",
            ("candidate", *(f"true difference, {title}" for title in JUDGED.values()), "deserves it", *CHECKS),
            gate_rows(gate, replications),
        ),
    ]  # fmt: skip


def bias_rows(figures: Mapping[str, Mapping[str, MetricFigure]]) -> tuple[tuple[str, ...], ...]:
    """Score and its metrics with their intervals."""
    return tuple((name, *(_figure(metrics[m]).text for m in (*JUDGED, "gauc"))) for name, metrics in figures.items())


def gate_rows(gate: Mapping[str, CaseResult], replications: int) -> tuple[tuple[str, ...], ...]:
    """Case, true differences, whether a promotion is deserved, and the shares promoted."""
    return tuple(
        (
            title,
            *(f"{result['truth'][metric]:+.4f}" for metric in JUDGED),
            "yes" if result["deserved"] else "no",
            *(share_text(result["promoted"][name], replications) for name in CHECKS),
        )
        for title, result in gate.items()
    )


def share_text(count: int, of: int) -> str:
    """A share with its 95 % interval (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    >>> share_text(10, 200)
    '5.0 % (2.7 to 9.0 %)'
    """
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, of, method="wilson")
    return f"{100 * count / of:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)"


def _figure(figure: MetricFigure) -> Figure:
    return Figure(figure["value"], (figure["interval"][0], figure["interval"][1]), 0.0)


def _mean_rate(logits: np.ndarray) -> np.ndarray:
    """Rate over items of random appeal, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    return np.asarray(expit(logits[:, None] + nodes) @ weights / weights.sum())
