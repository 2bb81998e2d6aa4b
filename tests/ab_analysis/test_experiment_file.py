"""The experiment file: every mistake is named with its line and what to do."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from ab_analysis.experiment import Experiment, load_experiment
from ab_analysis.experiment_plan import make_plan
from ab_analysis.metrics import Metric, load_catalog
from core.errors import ConfigError
from core.settings import Settings, load_settings

EXAMPLE = Path(__file__).resolve().parents[2] / "ab_analysis" / "example.yaml"
TEXT = """name: test
variants: {a: 0.5, b: 0.5}
control: a
start: 2026-03-02
end: 2026-03-10
primary: [active_days]
secondary: [likes]
"""


def problem(tmp_path: Path, text: str) -> str:
    path = tmp_path / "test.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        make_plan(load_settings(var=tmp_path), load_experiment(path), ("genre",))
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: test", "name: ../../etc", "line 1: name: use lower-case letters"),
        ("name: test", "name: <script>", "line 1: name: use lower-case letters"),
        ("name: test", "name: 2026", "line 1: name: Input should be a valid string (write it in quotes)"),
        ("b: 0.5}", "'b ': 0.5}", "line 2: variants: ['b ']: a variant's name has"),
        ("b: 0.5}", "b: true}", "line 2: variants: ['b']: a share is a number"),
        ("b: 0.5}", "b: 1e308}", "line 2: variants: every share must be above 0"),
        ("b: 0.5}", "b: 1e-320}", "line 2: variants: every share must be above 0"),
        ("start: 2026-03-02", "start: 20260302", "line 4: start: 20260302 is not a date; write it as 2026-03-02"),
        ("start: 2026-03-02", "start: '1772409600'", "line 4: start: 1772409600 is not a date"),
        ("start: 2026-03-02", "start: 2026-02-30", "line 4 is not valid YAML: day is out of range"),
        ("start: 2026-03-02", "start: 0001-01-01", "line 4: start: the year 1 is not between 1990 and 2200"),
        ("end: 2026-03-10", "end: 9999-12-31", "line 5: end: the year 9999 is not between"),
        ("end: 2026-03-10", "end: 20260310", "line 5: end: 20260310 is not a date"),
        ("end: 2026-03-10", "confidence: 95", "line 5: confidence: Input should be less than"),
        ("end: 2026-03-10", "confidence: 0.9999999999999999", "line 5: confidence: Input should be less than"),
        ("end: 2026-03-10", "layer: {name: ../l}", "line 5: layer.name: String should match"),
        ("end: 2026-03-10", 'owner: "\a"', "is not valid YAML: unacceptable character #x0007"),
        ("end: 2026-03-10", "owner: " + "[" * 3000, "is not valid: it is nested too deeply"),
        (
            "end: 2026-03-10",
            "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstuvwxyz")),
            "more than 100,000 values",
        ),
        ("variants: {a: 0.5, b: 0.5}", "variants: {a: 0.5, '<b>': 0.5}", "line 2: variants: "),
        ("variants: {a: 0.5, b: 0.5}", "variants: {a: 0.5, b: 0}", "line 2: variants: every share"),
        ("variants: {a: 0.5, b: 0.5}", "variants: {a: 1}", "line 2: variants: name at least two"),
        ("control: a", "control: c", "control: 'c' is none of the variants"),
        ("control: a", "contrl: a", "line 3: contrl: unknown key; did you mean 'control'?"),
        ("start: 2026-03-02", "start: yesterday", "line 4: start: "),
        ("end: 2026-03-10", "end: 2026-03-01", "lies before start"),
        ("[active_days]", "[]", "primary: name at least one"),
        ("[active_days]", "[active_day]", "unknown metric 'active_day'; did you mean 'active_days'?"),
        ("[likes]", "[likes, active_days]", "named twice"),
        ("[likes]", "[likes]\nsecondary: [skips]", "line 8: 'secondary' appears twice (first in line 7)"),
        ("[likes]", "[likes]\nstopping: {rule: sometimes}", "line 8: stopping.rule"),
        ("end: 2026-03-10", "stopping: {rule: group_sequential}", "group_sequential plans its looks up to the end"),
        (
            "[likes]",
            "[likes]\nguardrails: {skips: {max_wrse: 0.1}}",
            "line 8: guardrails.skips.max_wrse: unknown key; did you mean",
        ),
        ("[likes]", "[likes]\nsegments: {s: {of: active_days}}", "line 8: segments.s: edges"),
        ("[likes]", "[likes]\nsegments: {s: {top: color}}", "the source has no facet 'color' (it has genre)"),
        (
            "[likes]",
            "[likes]\nsegments: {variant: {top: genre}}",
            "line 8: segments: 'variant' is the name of a column",
        ),
        ("[likes]", "[likes]\nsegments: {likes: {top: genre}}", "is also the name of a metric"),
        ("[likes]", "[x_pre]\nmetrics: {x_pre: {count: skip}}", "line 8: metrics: 'x_pre': use lower-case"),
        ("[likes]", "[likes]\nstrata: [s]", "not segments of this file"),
        ("[likes]", "[likes]\ncovariates: {likes: [skip_rate]}", "'skip_rate' is not a sum"),
        (
            "[likes]",
            "[likes]\npopulation: active_days > 3",
            "'active_days' is not known before the start; did you mean",
        ),
        ("[likes]", "[likes]\ntrigger: local_hr = 3", "events have no column 'local_hr'; did you mean 'local_hour'?"),
        ("[likes]", "[likes]\ntrigger: SELECT 1", "line 8: trigger: "),
        ("[likes]", "[m]\nmetrics: {m: {sum: played_secs}}", "events have no column 'played_secs'; did you mean"),
        ("[likes]", "[m]\nmetrics: {m: {sum: played_seconds, count: skip}}", "line 8: metrics.m: give exactly one of"),
        ("[likes]", "[m]\nmetrics: {m: {sum: sum(played_seconds)}}", "must be one expression"),
        ("[likes]", "[m]\nmetrics: {m: {sum: readfile('x')}}", "calls readfile(), which is unknown"),
        ("[likes]", "[m]\nmetrics: {m: {ratio: [skip_rate, plays]}}", "is made of 'skip_rate', which is not"),
        ("variants: {a: 0.5, b: 0.5}", "variants: {a: .nan, b: 0.5}", "line 2: variants.a: Input should be a finite"),
        (
            "[likes]",
            '[m]\nmetrics: {m: {sum: "unnest([1, 2])"}}',
            "line 8: metrics.m: sum: 'unnest([1, 2])' holds UNNEST",
        ),
        ("[likes]", "[m]\nmetrics: {m: {sum: COLUMNS(*)}}", "must be one expression"),
        ("[likes]", "[m]\nmetrics: {m: {sum: \"'abc'\"}}", "metric m: ''abc'' gives VARCHAR, not a number"),
        ("[likes]", "[m]\nmetrics: {m: {count: genre}}", "metric m: 'genre' gives VARCHAR, not a condition"),
        ("[likes]", "[m]\nmetrics: {m: {sum: len(range(1000000000))}}", "holds RANGE(0, 1000000000)"),
        (
            "[likes]",
            "[m]\nmetrics: {m: {sum: array_length(array(select 1))}}",
            "must be one expression over the columns of a row",
        ),
        ("[likes]", "[likes]\ntrigger: exists(select 1)", "must be one expression over the columns of a row"),
        ("[likes]", "[likes]\npopulation: random() < 0.5", "which is another value each time"),
        ("[likes]", "[likes]\nsegments: &s {s: *s}", "an anchor (&) contains itself"),
        ("[likes]", "[order]\nmetrics: {order: {count: skip}}", "line 8: metrics: 'order' is a word of SQL"),
        ("[likes]", "[m]\nmetrics: {m: {quantile: 0.5}}", "quantile needs 'of'"),
        ("[likes]", "[likes", "line 8 is not valid YAML"),
        (TEXT, "- one\n- two\n", "must hold a mapping of keys"),
        (TEXT, "", "name: Field required"),
    ],
)
def test_a_wrong_file_names_line_and_remedy(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert message in problem(tmp_path, TEXT.replace(old, new))


@pytest.mark.parametrize("facet", ["phase", "local_day", "Local_Hour", "variant"])
def test_a_facet_named_like_a_column_of_experiments_is_refused(tmp_path: Path, facet: str) -> None:
    (tmp_path / "test.yaml").write_text(TEXT)
    with pytest.raises(ConfigError, match=f"facets .*{facet}.*rename them in the mapping"):
        make_plan(load_settings(var=tmp_path), load_experiment(tmp_path / "test.yaml"), ("genre", facet))


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    text = problem(tmp_path, TEXT.replace("name: test", "name: A B").replace("end:", "ende:"))
    assert "has 2 problem(s)" in text
    assert "line 1" in text
    assert "line 5: ende: unknown key; did you mean 'end'?" in text


@pytest.mark.parametrize("name", ["none.yaml", ".", "file/inner.yaml", "x" * 300])
def test_a_missing_file_says_how_to_make_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        load_experiment(tmp_path / name)
    assert "clock ab init" in str(caught.value) or "cannot be read: " in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_says_so(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "test.yaml").write_bytes((TEXT + "owner: é\n").encode(encoding))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_experiment(tmp_path / "test.yaml")


def test_the_example_is_valid_and_the_schema_agrees_with_the_model(tmp_path: Path) -> None:
    plan = make_plan(load_settings(var=tmp_path), load_experiment(EXAMPLE), ("genre",))
    assert {"duration_p90", "skip_rate", "plays"} <= set(plan.metrics)
    schema = json.loads(json.dumps(Experiment.model_json_schema()))
    validator = jsonschema.Draft202012Validator(schema)
    good = yaml.load(TEXT, Loader=yaml.BaseLoader) | {"variants": {"a": 0.5, "b": 0.5}}
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, "contrl": "a"})
    assert not validator.is_valid({**good, "stopping": {"rule": "sometimes"}})
    assert not validator.is_valid({k: v for k, v in good.items() if k != "control"})


def test_a_workspace_adds_its_own_metrics(settings: Settings) -> None:
    settings.workspace.mkdir(parents=True)
    (settings.workspace / "metrics.yaml").write_text("shares: {count: share, title: shared}\n")
    catalog = load_catalog(settings.workspace / "metrics.yaml")
    assert catalog["shares"] == Metric(count="share", title="shared")
    assert "active_days" in catalog


@pytest.mark.parametrize(
    ("named", "secondary"),
    [
        ({"primary": ["finishes"]}, ("likes", "skips")),
        ({"guardrails": {"likes": {"max_worse": 0.01}}}, ("finishes", "skips")),
        ({"primary": ["finishes"], "secondary": ["likes"]}, ("likes",)),
        ({}, ("finishes", "likes", "skips")),
    ],
)
def test_a_metric_that_a_file_names_elsewhere_is_no_secondary_one_by_default(
    named: dict[str, Any], secondary: tuple[str, ...]
) -> None:
    parts = {"name": "x", "variants": {"a": 1, "b": 1}, "control": "a", "start": "2026-03-02", **named}
    assert Experiment.model_validate(parts).secondary == secondary


@pytest.mark.parametrize("primary", [5, "finishes", {"a": [1]}, [["finishes"]], None])
def test_primary_metrics_that_are_no_list_of_names_are_refused(primary: object) -> None:
    with pytest.raises(ValidationError, match="primary"):
        Experiment.model_validate(
            {"name": "x", "variants": {"a": 1, "b": 1}, "control": "a", "start": "2026-03-02", "primary": primary}
        )


def test_winsorize_and_winsorise_are_one_key() -> None:
    assert Metric.model_validate({"of": "plays", "winsorize": 0.9}) == Metric.model_validate(
        {"of": "plays", "winsorise": 0.9}
    )


def test_only_what_decides_the_result_is_an_edit() -> None:
    base = {"name": "test", "variants": {"a": 1, "b": 1}, "control": "a", "start": "2026-03-02"}
    first = Experiment(**base)
    assert Experiment(**base, owner="somebody", hypothesis="a better one").digest == first.digest
    assert Experiment(**base, primary=("likes",), secondary=()).digest != first.digest
