"""Experiments without a shell: planned, defined, stopped, extended, concluded; every change kept with who, when and why."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ab_analysis.changes import changes_file, read_changes
from ab_analysis.experiment import load_named
from ab_analysis.overview import write_overview
from ab_analysis.preview import find_overlaps, preview_experiment
from clock.commands import ab_changes
from core import cli
from core.errors import ConfigError, CorruptStateError, NotReadyError
from core.files import read_json
from core.hours import Hour
from core.settings import Settings, load_settings
from pipeline.experiment_changes import conclude, define_experiment, extend, log_end, plan_experiment, stop_early
from pipeline.reports import due_experiments, report_experiment
from serving.routing import load_routes, stopped
from simulation.workspace import write_experiment
from tests.browser import fits_every_screen
from tests.conftest import TINY, workspace_of_app, write_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser

END = TINY.end_hour  # 2026-03-06T00: the log goes from 2026-03-02 to 2026-03-05, its first hours are without events
TEXT = """# ours
name: night
variants: {control: 0.5, treatment: 0.5}
control: control
start: 2026-03-04
end: 2026-03-17
primary: [active_days, duration_hours]
secondary: [likes]
minimum_effect: 0.2
stopping: {rule: always_valid}
"""


@pytest.fixture
def workspace(app_settings: Settings, tmp_path: Path) -> Settings:
    """The tiny app's events, without any experiment."""
    settings = workspace_of_app(app_settings, tmp_path / "var")
    write_app(settings.workspace, TINY)
    return settings


def file_of(settings: Settings, name: str = "night") -> Path:
    return settings.experiments_dir / f"{name}.yaml"


def actions(settings: Settings, name: str = "night") -> list[tuple[str, str, str]]:
    return [(c.action, c.who, c.state) for c in read_changes(settings.experiments_dir, name)]


def test_a_plan_is_shown_before_anything_is_saved(workspace: Settings) -> None:
    planned = plan_experiment(workspace, TEXT)
    assert not workspace.experiments_dir.exists() or not list(workspace.experiments_dir.iterdir())
    page = planned.page.read_text()
    assert "A draft: saved only when somebody approves it." in page
    assert "# ours" in page
    assert planned.preview.days == [3], "the log has no more whole days"
    rows = {f.row.metric: f for f in planned.preview.forecasts}
    assert set(rows) == {"active_days", "duration_hours", "likes"}
    assert planned.preview.forecasts[0].row.metric == "active_days"
    assert rows["duration_hours"].row.users_needed <= rows["duration_hours"].plain.users_needed
    assert "a length of 14 days cannot be tried" in " ".join(planned.preview.warnings)
    assert "It starts before the end of the log" in " ".join(planned.preview.warnings)
    assert "/ab/night/plan.html" in planned.summary
    assert "**active days**: 3 days find an effect of 20% with a power of" in planned.summary


def test_a_layer_s_share_has_its_share_of_the_users(workspace: Settings) -> None:
    whole = plan_experiment(workspace, TEXT).preview.forecasts[0]
    half = plan_experiment(workspace, TEXT + "layer: {name: ranking, start: 0, end: 0.5}\n").preview.forecasts[0]
    assert half.row.users == round(whole.row.users / 2)
    assert half.row.power < whole.row.power
    assert half.row.users_needed == pytest.approx(whole.row.users_needed, rel=0.01)


def test_the_planned_length_is_enough_or_says_what_is(workspace: Settings) -> None:
    text = TEXT.replace("end: 2026-03-17", "end: 2026-03-07")
    preview = plan_experiment(workspace, text.replace("0.2", "9.0")).preview
    assert preview.is_enough
    assert preview.sentence("active_days") == "3 days find an effect of 900% with a power of 100%"
    preview = plan_experiment(workspace, text.replace("0.2", "0.001")).preview
    assert not preview.is_enough
    assert "users are needed, 3 days have" in preview.sentence("duration_hours")


def test_a_source_without_events_says_what_to_do_first(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="simulator")
    with pytest.raises(NotReadyError, match="run 'clock events ingest' first"):
        plan_experiment(settings, TEXT)


def test_what_is_defined_is_the_text_itself_with_who_when_and_why(workspace: Settings) -> None:
    change = define_experiment(workspace, TEXT, "ann", "people sleep badly")
    assert file_of(workspace).read_text() == TEXT
    (kept,) = read_changes(workspace.experiments_dir, "night")
    assert kept == change
    assert not kept.affects_result
    assert (kept.who, kept.action, kept.why, kept.state) == ("ann", "defined", "people sleep badly", "running")
    assert kept.content["minimum_effect"] == 0.2
    with pytest.raises(ConfigError, match="there is an experiment 'night' already"):
        define_experiment(workspace, TEXT, "bob", "once more")
    with pytest.raises(ConfigError, match="say why"):
        define_experiment(workspace, TEXT.replace("night", "day"), "bob", " . ")
    assert not file_of(workspace, "day").exists()


def test_a_definition_that_is_wrong_saves_nothing(workspace: Settings) -> None:
    define_experiment(workspace, TEXT + "layer: {name: ranking, start: 0.0, end: 0.6}\n", "ann", "the first")
    other = TEXT.replace("night", "day") + "layer: {name: ranking, start: 0.5, end: 1.0}\n"
    for text, message in (
        (other, "layer 'ranking'"),
        (TEXT.replace("night", "day").replace("[likes]", "[lkes]"), "unknown metric 'lkes'; did you mean 'likes'"),
        (TEXT.replace("night", "day").replace("2026-03-04", "soon"), "line 5: start"),
        (TEXT.replace("night", "day") + "stopped: 2026-03-05\n", "cannot be stopped or concluded yet"),
    ):
        for act in (plan_experiment, lambda s, t: define_experiment(s, t, "ann", "because")):
            with pytest.raises(ConfigError, match=message):
                act(workspace, text)
    assert not file_of(workspace, "day").exists()


def test_what_users_have_met_stays_and_what_changes_after_the_start_is_flagged(workspace: Settings) -> None:
    define_experiment(workspace, TEXT, "ann", "people sleep badly")
    with pytest.raises(ConfigError, match="night has begun: variants cannot change any more"):
        define_experiment(workspace, TEXT.replace("treatment: 0.5", "treatment: 0.4"), "bob", "less risk", replace=True)
    with pytest.raises(ConfigError, match=r"has comments that would be lost \(# ours\)"):
        define_experiment(workspace, TEXT.replace("# ours\n", ""), "bob", "tidied up", replace=True)
    change = define_experiment(workspace, TEXT.replace("[likes]", "[skips]"), "bob", "skips say more", replace=True)
    assert (change.action, change.keys, change.affects_result) == ("redefined", ["secondary"], True)
    later = TEXT.replace("2026-03-04", "2026-04-04").replace("2026-03-17", "2026-04-17").replace("night", "spring")
    define_experiment(workspace, later, "ann", "for later")
    change = define_experiment(
        workspace, later.replace("treatment: 0.5", "treatment: 0.4"), "bob", "less risk", replace=True
    )
    assert (change.state, change.affects_result) == ("planned", False)


def test_an_edit_in_an_editor_is_seen_at_the_next_change(workspace: Settings) -> None:
    define_experiment(workspace, TEXT, "ann", "people sleep badly")
    file_of(workspace).write_text(TEXT.replace("minimum_effect: 0.2", "minimum_effect: 0.1"))
    extend(workspace, "night", "bob", "one more week", date(2026, 3, 24))
    assert actions(workspace) == [
        ("defined", "ann", "running"), ("edited by hand", "not known", "running"), ("extended", "bob", "running"),
    ]  # fmt: skip
    by_hand, extended = read_changes(workspace.experiments_dir, "night")[1:]
    assert (by_hand.keys, extended.keys) == (["minimum_effect"], ["end"])
    assert extended.told("end") == "2026-03-24"
    assert "# ours" in file_of(workspace).read_text()


def test_an_extension_is_later_than_the_end_and_not_of_what_has_ended(workspace: Settings) -> None:
    define_experiment(workspace, TEXT, "ann", "people sleep badly")
    with pytest.raises(ConfigError, match="runs to 2026-03-17; 2026-03-17 is not later"):
        extend(workspace, "night", "bob", "one more week", date(2026, 3, 17))
    define_experiment(workspace, TEXT.replace("night", "short").replace("03-17", "03-04"), "ann", "a short one")
    with pytest.raises(ConfigError, match="short ended on 2026-03-04"):
        extend(workspace, "short", "bob", "one more week", date(2026, 3, 24))
    define_experiment(workspace, TEXT.replace("night", "open").replace("end: 2026-03-17\n", ""), "ann", "for long")
    with pytest.raises(ConfigError, match="open has no last day"):
        extend(workspace, "open", "bob", "one more week", date(2026, 3, 24))


def test_an_extension_into_another_experiment_s_users_is_refused_and_both_go_on(workspace: Settings) -> None:
    layer = "layer: {name: ranking, start: 0.0, end: 0.6}\nmodels: {control: champion, treatment: challenger}\n"
    text = TEXT + layer
    define_experiment(workspace, text.replace("night", "zz").replace("03-17", "03-09"), "ann", "the first")
    planned = text.replace("night", "aa").replace("03-04", "03-10")
    define_experiment(workspace, planned, "ann", "the one after it")
    with pytest.raises(ConfigError, match=r"'zz' takes users 0 to 0\.6 and 'aa' 0 to 0\.6 at the same time"):
        extend(workspace, "zz", "bob", "some more days", date(2026, 3, 15))
    routes, problems = load_routes(workspace)
    assert {e.name for e in routes.experiments} == {"aa", "zz"}
    assert not problems
    assert actions(workspace, "zz") == [("defined", "ann", "running")]


def test_what_overlaps_by_an_edit_can_still_be_stopped_and_concluded(workspace: Settings) -> None:
    layer = "layer: {name: ranking, start: 0.0, end: 0.6}\n"
    define_experiment(workspace, TEXT + layer, "ann", "people sleep badly")
    file_of(workspace, "other").write_text(TEXT.replace("night", "other") + layer)
    stop_early(workspace, "night", "bob", "it is in the way of the other one")
    conclude(workspace, "night", "ann", "inconclusive", "too short to say")
    assert [a for a, _, _ in actions(workspace)] == ["defined", "stopped", "concluded"]


def test_a_stop_sends_everybody_back_and_a_conclusion_needs_an_end(workspace: Settings) -> None:
    text = TEXT + "models: {control: champion, treatment: challenger}\n"
    define_experiment(workspace, text, "ann", "people sleep badly")
    with pytest.raises(ConfigError, match="cannot conclude night: it runs until 2026-03-17"):
        conclude(workspace, "night", "ann", "shipped", "they sleep well")
    with pytest.raises(ConfigError, match="it ran from 2026-03-04 to 2026-03-05"):
        stop_early(workspace, "night", "bob", "it wakes people", date(2026, 3, 9))
    stop_early(workspace, "night", "bob", "it wakes people")
    experiment = load_named(workspace.experiments_dir, "night")
    assert (experiment.stopped, experiment.end, experiment.end_hour) == (date(2026, 3, 5), date(2026, 3, 17), END)
    assert experiment.planned_days == 14, "the rule goes on to rest on what was planned"
    assert stopped(workspace, "night") == "bob: it wakes people"
    with pytest.raises(ConfigError, match="cannot stop night: it ended on 2026-03-05"):
        stop_early(workspace, "night", "bob", "once more")
    change = conclude(workspace, "night", "ann", "not_shipped", "they sleep badly: all of them")
    assert not change.affects_result
    conclusion = load_named(workspace.experiments_dir, "night").conclusion
    assert conclusion
    assert (conclusion.outcome, conclusion.note) == ("not_shipped", "they sleep badly: all of them")
    assert [a for a, _, _ in actions(workspace)] == ["defined", "stopped", "concluded"]


def test_a_new_experiment_serves_whatever_became_of_an_earlier_one_of_its_name(workspace: Settings) -> None:
    text = TEXT + "models: {control: champion, treatment: challenger}\n"
    define_experiment(workspace, text, "ann", "people sleep badly")
    stop_early(workspace, "night", "bob", "it wakes people")
    assert not load_routes(workspace)[0].names
    file_of(workspace).unlink()
    define_experiment(workspace, text, "ann", "once more, with softer songs")
    assert load_routes(workspace)[0].names == {"night"}
    assert stopped(workspace, "night") is None


def test_a_stopped_holdout_holds_nobody_out_any_more(workspace: Settings) -> None:
    text = TEXT.replace("night", "held").replace("end: 2026-03-17\n", "") + "holdout: true\n"
    define_experiment(workspace, text, "ann", "what it adds up to")
    users, moment = ["u1", "u2", "u3", "u4", "u5", "u6"], (END - 1).start
    assert {route.experiment for route in load_routes(workspace)[0].of(users, moment)} == {"held"}
    stop_early(workspace, "held", "bob", "the quarter is over")
    assert {route.experiment for route in load_routes(workspace)[0].of(users, moment)} == {""}


def test_what_is_planned_cannot_be_stopped(workspace: Settings) -> None:
    define_experiment(workspace, TEXT.replace("2026-03", "2026-05"), "ann", "for later")
    with pytest.raises(ConfigError, match="cannot stop night: it begins on 2026-05-04"):
        stop_early(workspace, "night", "ann", "not any more")


def test_overlaps_name_who_shares_users_and_metrics(workspace: Settings) -> None:
    layer = "layer: {name: ranking, start: 0.0, end: 0.5}\n"
    open_end = TEXT.replace("end: 2026-03-17\n", "").replace("active_days, ", "")
    others = {
        "same_layer": TEXT + layer.replace("0.0", "0.5").replace("end: 0.5", "end: 1.0"),
        "quarter": TEXT + "layer: {name: look, start: 0, end: 0.25}\n",
        "over": TEXT.replace("2026-03-17", "2026-03-03").replace("2026-03-04", "2026-03-03"),
        "everybody": open_end,
        "stopped": TEXT.replace("2026-03-04", "2026-03-01"),
    }
    for name, text in others.items():
        define_experiment(workspace, text.replace("night", name), "ann", "beside it")
    with file_of(workspace, "stopped").open("a") as file:
        file.write("stopped: 2026-03-03\n")
    file_of(workspace, "damaged").write_text("name: [")
    define_experiment(workspace, TEXT + layer, "ann", "the one")
    overlaps = find_overlaps(workspace, load_named(workspace.experiments_dir, "night"))
    assert [(o.name, o.shared, o.from_day, o.to_day) for o in overlaps] == [
        ("everybody", 1.0, "2026-03-04", "2026-03-17"), ("quarter", 0.25, "2026-03-04", "2026-03-17"),
        ("same_layer", 0.0, "2026-03-04", "2026-03-17"),
    ]  # fmt: skip
    assert overlaps[0].metrics == ("duration_hours",)


def test_a_damaged_record_is_named_by_its_line(workspace: Settings) -> None:
    define_experiment(workspace, TEXT, "ann", "people sleep badly")
    with changes_file(workspace.experiments_dir, "night").open("a") as file:
        file.write("{}\n")
    with pytest.raises(CorruptStateError, match=r"night\.changes\.jsonl, line 2 is damaged"):
        read_changes(workspace.experiments_dir, "night")


@pytest.fixture
def exposed(workspace: Settings) -> Settings:
    """With the experiment that the tiny app's users met: it runs from 2026-03-04 on."""
    write_experiment(workspace, END)
    path = file_of(workspace, "clock_ranker")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "end": date(2026, 3, 31)}, sort_keys=False))
    return workspace


@pytest.mark.slow
def test_the_final_report_of_a_stop_that_was_undone_is_no_report_of_the_experiment_any_more(exposed: Settings) -> None:
    stop_early(exposed, "clock_ranker", "bob", "no more budget", date(2026, 3, 4))
    report_experiment(exposed, "clock_ranker", END)
    folder = exposed.reports_dir / "ab" / "clock_ranker"
    assert 'href="clock_ranker/final.html"' in write_overview(exposed).read_text()
    report_experiment(exposed, "clock_ranker", END - 27)  # as of before its end: the final one stands
    assert (folder / "final.html").exists()
    path = file_of(exposed, "clock_ranker")
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "stopped" not in line))
    report_experiment(exposed, "clock_ranker", END)
    assert not list(folder.glob("final.*"))
    text = write_overview(exposed).read_text()
    assert f'href="clock_ranker/{END.key}.html"' in text
    assert "0 of 1 experiments have ended" in text


@pytest.mark.slow
def test_a_stopped_experiment_is_reported_to_its_stop_by_the_rule_it_began_with(exposed: Settings) -> None:
    stop_early(exposed, "clock_ranker", "bob", "no more budget", date(2026, 3, 4))
    conclude(exposed, "clock_ranker", "ann", "inconclusive", "too short to say")
    assert due_experiments(exposed, END) == ["clock_ranker"]
    written = report_experiment(exposed, "clock_ranker", END)
    assert written.report
    assert written.report.endswith("2026-03-05T00.html")
    folder = Path(written.report).parent
    final = read_json(folder / "final.json")
    assert final["planned_days"] == pytest.approx(28.375), "from 15:00 on the first day"
    assert not any(check["name"] == "edited after start" for check in final["checks"])
    page = (folder / "final.html").read_text()
    for words in ("Stopped on 2026-03-04", "too short to say", "no more budget", "Changes of the experiment file"):
        assert words in page
    assert due_experiments(exposed, END) == []
    path = file_of(exposed, "clock_ranker")
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "stopping": {"rule": "fixed"}}, sort_keys=False))
    fixed = report_experiment(exposed, "clock_ranker", END)
    assert fixed.verdict == "no_conclusion"
    assert "it was stopped on 2026-03-04, before the first look that its rule allows" in fixed.sentence


def test_a_change_from_a_shell_is_on_the_pages_as_one_by_a_form_is(
    workspace: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(workspace.var))
    (tmp_path / "night.yaml").write_text(TEXT)
    overview, first_page = (workspace.reports_dir / name for name in ("ab/index.html", "index.html"))
    cli.call(ab_changes.app, ["define", str(tmp_path / "night.yaml"), "--why", "to sleep better"])
    assert "night/plan.html" in overview.read_text()
    assert first_page.exists()
    first_page.unlink()
    for *command, state in (["extend", "--end", "2026-03-20", "2026-03-20"], ["stop", "ended"]):
        overview.write_text("")
        cli.call(ab_changes.app, [*command, "night", "--why", "it is needed"])
        assert state in overview.read_text()
        assert first_page.exists()
    assert capsys.readouterr().out.endswith(f"night is stopped\n  {overview}\n")


@pytest.mark.slow
def test_the_page_of_a_plan_shows_everything_on_every_screen(chromium: Browser, workspace: Settings) -> None:
    define_experiment(workspace, TEXT.replace("night", "day"), "ann", "beside it")
    planned = plan_experiment(workspace, TEXT + "# a long line: " + "x" * 300 + "\n")
    fits_every_screen(chromium, planned.page)
    assert planned.page.stat().st_size < 1_500_000


def test_a_new_experiment_is_due_as_if_a_person_had_put_its_file_there(workspace: Settings) -> None:
    define_experiment(workspace, TEXT, "ann", "people sleep badly")
    assert due_experiments(workspace, END) == ["night"]
    assert log_end(workspace) == Hour.parse("2026-03-05T17")
    assert 'href="night/plan.html"' in write_overview(workspace).read_text()
    preview: Any = preview_experiment(workspace, load_named(workspace.experiments_dir, "night"))
    assert preview.overlaps == []
