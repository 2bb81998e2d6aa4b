"""Studies of peers, features and options of the base: what models see, and that what they say of themselves is so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import ConfigError, PlatformError
from core.hours import DAY_HOURS
from core.settings import load_settings
from events.store import EventStore
from studies import base, features, lab, peer_models, peers, session_loss
from studies.calibration import CALIBRATIONS
from studies.chosen_options import chosen_and_reported
from studies.columns import Columns, columns_of, rates_before, without
from studies.lab import Lab
from studies.log import Log, evaluated_from, hours_of
from studies.paired import Figure
from studies.peer_models import LogisticPeer, require_libraries
from studies.peer_runs import PEERS, PeerRun
from studies.rechub_models import RechubPeer
from studies.replay import Run

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def test_rates_and_counts_are_those_of_earlier_hours() -> None:
    draw = np.random.default_rng(4)
    hour, codes = np.sort(draw.integers(0, 6, 300)), draw.integers(0, 5, 300)
    label, known = draw.integers(0, 2, 300), draw.uniform(size=300) < 0.8
    rates, counts = rates_before(codes, hour, label, known)
    for at in range(300):
        past = (hour < hour[at]) & known
        same = past & (codes == codes[at])
        usual = (label[past].sum() + 1) / (past.sum() + 2)
        rate = (label[same].sum() + 10 * usual) / (same.sum() + 10)
        assert counts[at] == pytest.approx(np.log1p(same.sum()), abs=1e-5)
        assert rates[at] == pytest.approx(np.log(rate / (1 - rate)) - np.log(usual / (1 - usual)), abs=1e-5)


def made_columns(rows: int = 4000) -> Columns:
    """Ten days in which a category and a number say what happens."""
    draw = np.random.default_rng(5)
    hour = np.sort(draw.integers(0, 10 * DAY_HOURS, rows))
    place, number = draw.integers(0, 4, rows).astype(np.int32), draw.normal(size=rows).astype(np.float32)
    label = draw.uniform(size=rows) < 1 / (1 + np.exp(-(place - 1.5 + number)))
    ids = {name: draw.integers(1, 50, rows).astype(np.int32) for name in ("user", "item")}
    recent = draw.integers(0, 50, (rows, 5)).astype(np.int32)
    return Columns(hour, label.astype(np.int8), np.ones(rows, bool), {**ids, "place": place}, {"n": number}, recent)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_every_peer_learns_and_repeats_itself(name: str) -> None:
    pytest.importorskip("lightgbm" if name == "LightGBM" else "torch_rechub")
    columns = made_columns()
    past, new = columns.rows(0, 5 * DAY_HOURS), columns.rows(5 * DAY_HOURS, 10 * DAY_HOURS)
    scores = []
    for _ in range(2):
        model = PEERS[name](columns, 7)
        if isinstance(model, RechubPeer):
            model.rate, model.passes = 0.01, 6
        model.fit(past)
        scores.append(model.predict(new))
    assert np.array_equal(scores[0], scores[1])
    label = columns.label[new]
    positives, negatives = scores[0][label == 1], scores[0][label == 0]
    assert (positives[:, None] > negatives[None]).mean() > 0.72  # the truth has 0.81
    assert scores[0].mean() == pytest.approx(label.mean(), abs=0.06)


def test_settings_are_chosen_by_the_later_rows() -> None:
    columns = made_columns()
    model = LogisticPeer(columns, 1)
    model.tune(columns.rows(0, 4 * DAY_HOURS), columns.rows(4 * DAY_HOURS, 5 * DAY_HOURS))
    chosen = model.inverse_strength
    losses = {}
    for strength in LogisticPeer.STRENGTHS:
        model.inverse_strength = strength
        model.fit(columns.rows(0, 4 * DAY_HOURS))
        later = columns.rows(4 * DAY_HOURS, 5 * DAY_HOURS)
        losses[strength] = peer_models.log_loss(columns.label[later], model.predict(later))
    assert chosen == min(losses, key=lambda strength: losses[strength])


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["static", "daily"])
def test_a_peers_scores_do_not_depend_on_what_happens_later(
    small: Lab, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """Other labels from the first evaluated noon on: that day's scores stay, and the next day's change for daily ones only."""
    (log,) = small.logs()
    columns = columns_of(log)
    first = evaluated_from(log.source, columns.hour)
    run = PeerRun("logistic regression", 1, schedule)  # type: ignore[arg-type]
    before = run.score(log)
    changed = columns.hour >= first + DAY_HOURS // 2
    other = replace(columns, label=np.where(changed, 1 - columns.label, columns.label))
    monkeypatch.setattr("studies.peer_runs.columns_of", lambda _: other)
    after = run.score(log)
    day = (columns.hour - first) // DAY_HOURS
    scored = (columns.hour >= first) & columns.known
    assert np.isfinite(before[scored]).all()
    assert np.isnan(before[~scored]).all()
    assert np.array_equal(before[scored & (day == 0)], after[scored & (day == 0)])
    next_day = scored & (day == 1)
    assert next_day.any()
    assert np.array_equal(before[next_day], after[next_day]) == (schedule == "static")


@pytest.mark.slow
def test_a_group_that_is_left_out_is_unknown_everywhere(small: Lab) -> None:
    (log,) = small.logs()
    keys = next(keys for _, keys in reversed(hours_of(log)) if (keys.clock_values != 0).any())
    facet = log.samples.facets[1]
    less = without(keys, [facet, "user"], log)
    assert not less.users.any()
    assert not less.facets[:, 1].any()
    assert not less.clock_values[:, :, 1].any()
    assert np.array_equal(less.facets[:, 0], keys.facets[:, 0])
    assert keys.users.all()  # what other runs read is as it was
    with pytest.raises(ConfigError, match=r"no feature \['device'\]"):
        without(keys, ["device"], log)


@pytest.mark.slow
def test_the_study_of_features_leaves_each_group_out(small: Lab) -> None:
    conclusion, page = features.run(small)
    assert conclusion.startswith("simulator, matched clock: ")
    figures = json.loads((Path(page).parent / "results.json").read_text())["logs"]["simulator"]
    facets = small.logs()[0].samples.facets
    left_out = {"the user's id", "the item's id", "the user's activity", *facets, "all facets", "the clock"}
    assert set(figures["gaps"]) == {f"without {name}" for name in left_out}
    assert all(of["auc"]["value"] != 0 for of in figures["gaps"].values())


@pytest.mark.slow
def test_the_study_of_peers_names_the_best_and_says_how_far_it_is(small: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("lightgbm", "torch_rechub"):
        pytest.importorskip(library)
    monkeypatch.setattr(peers, "TIME_MODULES", ("none", "matched_clock"))
    monkeypatch.setattr(peers, "STATIC", ("LightGBM",))
    monkeypatch.setattr(peers, "PEERS", {name: PEERS[name] for name in ("LightGBM", "logistic regression", "DIN")})
    conclusion, page = peers.run(small)
    results = json.loads((Path(page).parent / "results.json").read_text())
    figures, best = results["logs"]["simulator"], results["best_peer"]
    values = {name: of["auc"]["value"] for name, of in figures["values"].items()}
    theirs = [name for name in values if name.endswith(("static", "daily"))]
    assert len(theirs) == 4
    assert best["name"] == max(theirs, key=lambda name: values[name])
    assert best["auc"]["difference"] == pytest.approx(values[best["ours"]] - values[best["name"]], abs=1e-12)
    assert best["within"]["interval"][0] < best["within"]["difference"] < best["within"]["interval"][1]
    assert best["name"] in conclusion


@pytest.mark.slow
def test_options_are_chosen_before_the_days_that_are_reported(small: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "OPTIONS", {"target statistics": base.STATISTICS})
    monkeypatch.setattr(session_loss, "OPTIONS", {"weight 4": session_loss.OPTIONS["weight 4"]})
    monkeypatch.setattr(session_loss, "MODULES", ("none",))
    _, page = base.run(small)
    gaps = json.loads((Path(page).parent / "results.json").read_text())["logs"]["simulator, none"]["gaps"]
    assert set(gaps["reported"]) == {"target statistics", *CALIBRATIONS}
    _, page = session_loss.run(small)
    of_none = json.loads((Path(page).parent / "results.json").read_text())["logs"]["simulator, none"]
    assert of_none["best"] == "weight 4"
    assert of_none["gaps"]["reported"].keys() == {"weight 4"}
    spans = chosen_and_reported(np.arange(0, 14 * 24), 2)
    assert np.flatnonzero(spans["reported"])[0] == 12 * 24
    assert not (spans["chosen"] & spans["reported"]).any()


def test_a_weight_is_chosen_by_session_auc_among_those_that_cost_no_auc() -> None:
    def gaps(auc: float, session: float) -> dict[str, Figure]:
        return {m: Figure(v, (v - 0.001, v + 0.001), 0.0) for m, v in (("auc", auc), ("session_auc", session))}

    tried = {"1": gaps(0.0, 0.002), "4": gaps(-0.0009, 0.004), "16": gaps(-0.002, 0.009)}
    assert session_loss.choose(tried) == "4"
    assert session_loss.choose({"4": gaps(-0.002, 0.004), "16": gaps(-0.003, 0.009)}) == "4"


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_calibration_mends_scores_and_looks_at_earlier_hours_only(name: str) -> None:
    draw = np.random.default_rng(6)
    rows = 20_000
    hour, truth = np.sort(draw.integers(0, 96, rows)), draw.uniform(0.05, 0.6, rows)
    frame: dict[str, np.ndarray] = {
        "hour": hour,
        "label": (draw.uniform(size=rows) < truth).astype(np.int8),
        "known": np.ones(rows, bool),
    }
    odds = truth / (1 - truth)
    scores = (2 * odds) ** 2 / (1 + (2 * odds) ** 2)  # too sure, and too high
    calibrated = CALIBRATIONS[name](scores, frame)
    late = hour >= 48
    assert np.abs(calibrated - truth)[late].mean() < 0.03 < np.abs(scores - truth)[late].mean()
    flipped = {**frame, "label": np.where(hour >= 60, 1 - frame["label"], frame["label"])}
    again = CALIBRATIONS[name](scores, flipped)
    assert np.array_equal(again[hour < 60], calibrated[hour < 60])
    assert not np.array_equal(again[hour >= 66], calibrated[hour >= 66])


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_models, "NEEDED", ("lightgbm", "no_such_library"))
    with pytest.raises(ConfigError, match=r"needs no_such_library: pip install -r requirements-studies\.txt"):
        require_libraries()


def test_a_mapping_of_another_source_is_refused(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="kuairand")
    with pytest.raises(ConfigError, match="maps the source 'foursquare', not 'kuairand': add --source foursquare"):
        Lab(settings, mapping="foursquare")


def test_an_interrupted_preparation_goes_on_with_its_own_log_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(var=tmp_path / "var", source="foursquare")
    for name in "ab":
        times = [f"2026-03-02T{hour:02d}:10:00" for hour in range(12)]
        log = {"user_id": [name] * 12, "venue_id": [*range(12)], "timestamp": times}
        pq.write_table(
            pa.table({**log, "category": ["x"] * 12, "category_group": ["y"] * 12}), tmp_path / f"{name}.parquet"
        )

    def prepare(name: str) -> int:
        preparing = Lab(settings, str(tmp_path / f"{name}.parquet"), seeds=1)
        of_log = Log(preparing.root / "data", "foursquare").settings
        preparing._ingest(of_log)
        store = EventStore(of_log.events_dir)
        return sum(store.manifest(hour).rows for hour in store.hours())

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(PlatformError):
        prepare("missing")
    with monkeypatch.context() as patch:
        patch.setattr(lab, "close_hours", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare("a")
    with pytest.raises(ConfigError, match=r"holds another log than .*b\.parquet; start over with FRESH=1"):
        prepare("b")
    assert prepare("a") == 12


class FailingRun:
    """A run that cannot be done."""

    title = "a failing run"

    def identity(self, log: Log) -> list[str]:
        return ["fails"]

    def score(self, log: Log) -> np.ndarray:
        raise ConfigError("there is nothing to score")


@pytest.mark.slow
def test_a_run_that_fails_ends_the_study_and_the_next_one_runs(small: Lab) -> None:
    (log,) = small.logs()
    with pytest.raises(ConfigError, match="nothing to score"):
        small.run([(log, FailingRun()), *((log, Run("none", seed)) for seed in range(50, 60))])
    run = Run("none", 50)
    small.run([(log, run)])
    assert len(small.read(log, run)) == len(columns_of(log))
