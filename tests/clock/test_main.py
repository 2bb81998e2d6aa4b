"""``clock``: its help teaches, its mistakes are one line, it starts without the heavy libraries."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.exceptions import TyperException

from clock.main import app
from core import cli, progress
from core.errors import ConfigError, DataError
from core.release import platform_version
from core.settings import ROOT

GROUPS: dict[str, tuple[str, ...]] = {
    "events": ("ingest", "close", "status", "explain"),
    "features": ("rebuild", "advance", "status", "clock", "page", "fit"),
    "ab": (
        "init",
        "schema",
        "plan",
        "assign",
        "analyze",
        "report",
        "define",
        "stop",
        "extend",
        "conclude",
        "changes",
    ),
    "evaluate": ("metrics", "compare"),
    "serve": ("run", "replay", "stop", "resume"),
    "ops": ("prepare", "init", "service", "healthy", "users", "metrics", "doctor", "backup", "restore", "migrate"),
    "simulate": ("write", "live", "truth"),
    "stream": ("follow", "status", "land"),
}


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def usage_error(*arguments: str) -> tuple[str, int]:
    with pytest.raises(TyperException) as caught:
        cli.call(app, arguments, program="clock")
    return cli.usage_message(caught.value), caught.value.exit_code


def test_help_has_every_command_in_its_panel(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(app, ["--help"], program="clock") == 0
    text = capsys.readouterr().out
    panels = ["Run the platform", "Data", "Models", "Experiments", "Operate"]
    places = [text.index(f" {panel} ─") for panel in panels]
    assert places == sorted(places)
    for name in (
        "demo",
        "loop",
        "up",
        "down",
        "setup",
        "history",
        "hour",
        "train",
        "stale",
        "rollback",
        "study",
        "bench",
        *GROUPS,
    ):
        assert f"│ {name} " in text


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_every_group_names_its_commands_and_an_example(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(app, [group, "-h"], program="clock") == 0
    text = capsys.readouterr().out
    assert all(f"│ {name} " in text for name in GROUPS[group])
    assert f"Example: clock {group}" in text


def test_every_option_and_argument_has_a_help_text() -> None:
    from typer.main import get_command

    def walk(command: Any, path: str) -> list[str]:
        silent = [f"{path} {p.name}" for p in command.params if not p.help]
        return silent + [s for name, c in getattr(command, "commands", {}).items() for s in walk(c, f"{path} {name}")]

    assert walk(get_command(app), "clock") == []


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(app, ["--version"], program="clock") == 0
    assert capsys.readouterr().out == f"clock {platform_version()}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("demmo",), "Did you mean 'demo'?"),
        (("demo", "--hurs", "2"), "did you mean '--hours'?"),
        (("events", "ingset"), "Did you mean 'ingest'?"),
        (("serve", "--prot", "1"), "did you mean '--port'?"),
        (("demo", "--hours", "x"), "should be a valid integer"),
        (("train", "matched_clock"), "Missing option '--until'"),
        (("--source", "x", "events", "explain"), "takes no --source"),
    ],
)
def test_a_mistyped_command_line_is_one_line_and_status_2(arguments: tuple[str, ...], words: str) -> None:
    message, status = usage_error(*arguments)
    assert status == cli.EXIT_ERROR
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "arguments", [("--source", "X!", "stale"), ("stale", "--source", "X!"), ("ops", "--source", "X!", "migrate")]
)
def test_the_source_may_stand_before_and_after_the_command(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="CLOCK_SOURCE"):
        cli.call(app, arguments, program="clock")


def test_a_study_is_listed_or_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(app, ["study"], program="clock") == 0
    assert "ab_calibration" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="did you mean 'clocks'"):
        cli.call(app, ["bench", "clokcs"], program="clock")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("uauc", "--data", "x", "--seeds", "3"), "takes no --data and no --seeds"),
        (("closed_loop", "--mapping", "x"), "takes no --mapping"),
        (("sigma", "--replications", "30"), "takes no --replications"),
        (("uauc", "--replications", "3"), "at least 20"),
        (("sigma", "--seeds", "101"), "from 1 to 100"),
    ],
)
def test_a_study_refuses_options_that_it_would_not_read(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cli.call(app, ["study", *arguments], program="clock")


def test_help_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from clock.main import app; from core import cli; cli.call(app, ['--help'], program='clock'); "
        "print(sorted({'torch', 'mlflow', 'airflow', 'pandas', 'numpy', 'duckdb', 'feast', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_old_and_new_forms_end_alike() -> None:
    old, new = process("studies", "sigmma"), process("clock", "study", "sigmma")
    assert (old.returncode, old.stderr) == (new.returncode, new.stderr)
    assert old.returncode == cli.EXIT_ERROR
    assert old.stderr.startswith("error: no study 'sigmma'; did you mean 'sigma'?")
    assert old.stderr.count("\n") == 1


def test_a_job_shows_stages_and_keeps_every_line_in_its_log_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = logging.getLogger("some.job")
    with progress.showing():
        log.info("before the file is known")
        progress.log_to(tmp_path / "logs" / "demo.log")
        log.info("1/2 reading", extra=progress.STAGE)
        log.info("a detail")
        log.info("a half", extra=progress.step(1, 2))
    shown = capsys.readouterr().err
    assert "1/2 reading" in shown
    assert "1/2 a half" in shown
    assert "a detail" not in shown
    assert shown.splitlines()[-1].endswith("demo.log")
    kept = (tmp_path / "logs" / "demo.log").read_text()
    assert all(text in kept for text in ("before the file is known", "1/2 reading", "a detail", "a half"))


JUDGED_ALONE = {
    "train nope --until 2026-03-10T10": "no variant 'nope'",
    "train matched_clock --until soon": "'soon' is not an hour",
    "train matched_clock --until 2026-03-10T10 --save-every 0": "--save-every 0",
    "rollback why --version x": "--version x",
    "demo --data log/": "the simulated app writes its own log",
    "setup simulated log/": "the simulated app writes its own log",
    "hour soon": "'soon' is not an hour",
    "history soon": "'soon' is not an hour",
    "features rebuild soon": "'soon' is not an hour",
    "features clock a --at soon": "'soon' is not an hour",
    "features page a --time 9": "'9' is not a local time",
    "ab report --until soon": "'soon' is not an hour",
    "ab report --day soon": "'soon' is not a day",
    "ab report --day 2026-03-10 --until 2026-03-10T10": "give one of them",
    "ab plan none.yaml --days 0": "--days 0",
    "evaluate compare a b --confidence 95": "95 % is 0.95",
    "ops capacity --peak 0": "more than 0",
    "simulate write --from 2026-03-10T10 --to 2026-03-09T10": "no hour lies from",
    "events ingest none.yaml --from 2026-03-10T10 --to 2026-03-10T10": "no hour lies from",
    "events close 2026-03-10T10 2026-03-09T10": "lies before",
    "events guess none.csv --name 9": "--name 9",
}


@pytest.mark.parametrize("line", JUDGED_ALONE)
def test_arguments_are_judged_before_workspace_and_files(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path / "var"))
    monkeypatch.delenv("CLOCK_SOURCE", raising=False)
    with pytest.raises(ConfigError, match=re.escape(JUDGED_ALONE[line])):
        cli.call(app, line.split())
    assert not (tmp_path / "var").exists()


def test_a_demo_starts_over_only_when_the_new_log_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path))
    (tmp_path / "foursquare").mkdir()
    with pytest.raises(DataError, match="no such file"):
        cli.call(app, ["demo", "--source", "foursquare", "--data", str(tmp_path / "gone"), "--fresh"])
    assert (tmp_path / "foursquare").is_dir()
