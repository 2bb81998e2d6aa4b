"""Texts of experiment files: what a form writes is what a person would, and a change touches nothing else."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from ab_analysis.experiment import parse_experiment
from ab_analysis.experiment_text import comments_of, set_keys
from ab_analysis.form import ExperimentForm
from core.errors import ConfigError

PATH = Path("night.yaml")
EXAMPLE = (Path(__file__).resolve().parents[2] / "ab_analysis" / "example.yaml").read_text(encoding="utf-8")
FORM: dict[str, Any] = {
    "name": "night", "variants": ["control: 50", "", "treatment: 50"], "start": "2026-03-10", "end": "2026-03-23",
    "primary": ["active_days"], "secondary": [],
}  # fmt: skip


def lines_changed(before: str, after: str) -> tuple[set[str], set[str]]:
    old, new = before.splitlines(), after.splitlines()
    return {line for line in old if line not in new}, {line for line in new if line not in old}


def test_a_form_writes_the_file_that_a_person_would() -> None:
    further = "# by what they did before\nsegments:\n  activity: {of: active_days, edges: [1, 4]}"
    form = ExperimentForm.read(
        {**FORM, "hypothesis": "late: it's calmer", "guardrails": ["skip_rate"], "max_worse": 0.7, "further": further}
    )
    assert form.text() == (
        "name: night\nhypothesis: 'late: it''s calmer'\nvariants: {control: 50, treatment: 50}\ncontrol: control\n"
        "start: 2026-03-10\nend: 2026-03-23\nprimary: [active_days]\nsecondary: []\n"
        "guardrails: {skip_rate: {max_worse: 0.007}}\nminimum_effect: 0.01\nstopping: {rule: always_valid}\n"
        f"{further}\n"
    )
    assert parse_experiment(form.text(), PATH).segments["activity"].edges == (1, 4)


def test_what_differs_from_its_default_is_written() -> None:
    values = {
        "owner": " ann ", "layer": "ranking", "layer_from": 50.0, "models": ["control: champion", "treatment: challenger"],
        "automatic_stop": True, "pre_days": 7, "population": "active_days_pre >= 1", "confidence": 90.0, "power": 90.0,
    }  # fmt: skip
    experiment = parse_experiment(ExperimentForm.read({**FORM, **values}).text(), PATH)
    assert experiment.owner == "ann"
    assert experiment.layer
    assert (experiment.layer.start, experiment.layer.end) == (0.5, 1.0)
    assert experiment.models == {"control": "champion", "treatment": "challenger"}
    assert (experiment.automatic_stop, experiment.pre_days, experiment.population) == (True, 7, "active_days_pre >= 1")
    assert (experiment.confidence, experiment.power) == (0.9, 0.9)
    assert not experiment.holdout
    assert parse_experiment(ExperimentForm.read({**FORM, "holdout": True}).text(), PATH).holdout


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("variants", ["control 50", "treatment: 50"], "variants: 'control 50' is not of the form name: value"),
        ("variants", ["a: 1", "a: 2"], "variants: 'a' appears twice"),
        ("variants", ["a: [", "b: 2"], "variants: '[' of 'a' cannot be read"),
        ("variants", ["a: half", "b: 2"], "variants.a: Input should be a valid number"),
        ("variants", ["a: 1"], "variants: name at least two"),
        ("start", "soon", "start: Input should be a valid date"),
        ("rule", "sometimes", "rule: Input should be"),
        ("pre_dys", 3, "pre_dys: no such field; did you mean 'pre_days'?"),
        ("further", "end: 2026-04-01", "'end' appears twice"),
        ("further", "segmnts: {}", "segmnts: unknown key; did you mean 'segments'?"),
        ("further", "a: [", "is not valid YAML"),
        ("name", "Night Mode", "name: use lower-case letters"),
        ("end", "2026-03-01", "end: 2026-03-01 lies before start"),
    ],
)
def test_a_wrong_form_names_the_field(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_experiment(ExperimentForm.read({**FORM, field: value}).text(), PATH)
    assert message in str(caught.value)


def test_a_key_is_set_and_every_other_line_and_comment_stays() -> None:
    changed = set_keys(EXAMPLE, {"end": date(2026, 4, 6)}, PATH)
    assert lines_changed(EXAMPLE, changed) == (
        {"end: 2026-03-23                      # last day"}, {"end: 2026-04-06                      # last day"},
    )  # fmt: skip
    assert changed.splitlines().index("end: 2026-04-06                      # last day") == EXAMPLE.splitlines().index(
        "end: 2026-03-23                      # last day"
    )


def test_a_new_key_goes_to_its_place_and_a_last_one_to_the_end() -> None:
    without = EXAMPLE.replace("end: 2026-03-23                      # last day\n", "")
    lines = set_keys(without, {"end": date(2026, 3, 23)}, PATH).splitlines()
    assert lines[lines.index("end: 2026-03-23") - 1].startswith("start: 2026-03-10")
    note = {"outcome": "shipped", "note": "users: came back"}
    line = "conclusion: {outcome: shipped, note: 'users: came back'}\n"
    assert set_keys(EXAMPLE, {"conclusion": note}, PATH) == EXAMPLE + line
    assert set_keys(EXAMPLE.rstrip("\n"), {"conclusion": note}, PATH) == EXAMPLE + line


@pytest.mark.parametrize(
    "text",
    [
        "{name: night, variants: {a: 1, b: 1}, control: a, start: 2026-03-10}",
        "name: night\nvariants: {a: 1, b: 1}\ncontrol: a\nstart: 2026-03-10\n...\n",
    ],
)
def test_a_file_that_cannot_be_changed_line_by_line_is_left_to_an_editor(text: str) -> None:
    with pytest.raises(ConfigError, match=r"night\.yaml: .* change it in an editor"):
        set_keys(text, {"conclusion": {"outcome": "shipped", "note": "because"}}, PATH)


def test_a_block_value_is_not_torn_apart() -> None:
    text = "name: night\nvariants:\n  a: 1\n  b: 1\ncontrol: a\nstart: 2026-03-10\nconclusion:\n  outcome: shipped\n  note: because\n"
    with pytest.raises(ConfigError, match="change it in an editor"):
        set_keys(text, {"conclusion": {"outcome": "inconclusive", "note": "not so"}}, PATH)
    assert yaml.safe_load(set_keys(text, {"end": date(2026, 4, 1)}, PATH))["end"] == date(2026, 4, 1)


def test_comments_are_told_from_signs_in_texts() -> None:
    assert comments_of('# one\na: "# no"  # two\nb: x#y\n') == ["# one", "# two"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"end": date(2500, 1, 1)}, "end: the year 2500 is not between 1990 and 2200"),
        (
            {"conclusion": {"outcome": "shipped", "note": "x"}},
            "conclusion.note: String should have at least 5 characters",
        ),
        ({"stopped": date(2020, 1, 1)}, "stopped: 2020-01-01 lies before the start or after the end"),
    ],
)
def test_a_value_that_no_file_may_have_is_said_and_not_written(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"night.yaml stays as it is: .*{said}"):
        set_keys(EXAMPLE, values, PATH)
