"""Files of users as people have them, and where results go."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ab_analysis.user_file import read_users
from clock.commands import ab
from core import cli
from core.errors import ConfigError, PlatformError
from core.files import write_output
from core.settings import ROOT, load_settings

EXPERIMENT = "name: test\nvariants: {a: 0.5, b: 0.5}\ncontrol: a\nstart: 2026-03-02\n"


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path / "var"))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "test.yaml").write_text(EXPERIMENT)
    return tmp_path / "test.yaml"


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("u.csv", " u1 \n\tu2\r\n", None),
        ("u.txt", " u1 \n\tu2\r\n", None),
        ("u.txt", "\u00a0u1\u200b\n\ufeffu2\u3000\n", None),
        ("u.csv", "uid,x\n\u200eu1,1\n\u2060u2\u00a0,2\n", "uid"),
        ("u.csv", "uid;x\nu1 ;1\nu2;2\n", "uid"),
        ("u.csv", "x\tuid\n1\tu1\n2\t u2\n", "uid"),
        ("u.csv", "x| uid \n1|u1\n2|u2\n", "uid"),
        ("u.tsv", "uid\tx\nu1\t1\nu2\t2\n", "uid"),
        ("u", "u1\nu2", None),
        ("u.txt", "u1\r\nu2\r", None),
        ("u.csv.gz", gzip.compress(b"uid,x\nu1,1\nu2,2\n", mtime=0), "uid"),
    ],
)
def test_users_are_those_of_the_log_without_padding(
    tmp_path: Path, name: str, content: str | bytes, column: str | None
) -> None:
    assert read_users(str(written(tmp_path / name, content)), column) == ["u1", "u2"]


@pytest.mark.parametrize(
    ("cells", "users"),
    [
        ("7.0 8.00", ["7", "8"]),
        ("7.0 8", ["7", "8"]),
        ("007 7.0", ["007", "7.0"]),
        ("7.0 a", ["7.0", "a"]),
        ("7.5", ["7.5"]),
    ],
)
def test_whole_numbers_written_as_floats_are_the_users_of_the_log(tmp_path: Path, cells: str, users: list[str]) -> None:
    path = written(tmp_path / "u.csv", "\n".join(["uid", *cells.split()]) + "\n")
    assert read_users(str(path), "uid") == users


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.csv", "user_id\nu1\n", "'user_id' in the first row is a header, not a user; name it with --column user_id"),
        (
            "u.csv",
            "customer\nc1\nc2\n",
            "'customer' in the first row looks like a header, as all other users have digits",
        ),
        ("u.txt", "UID\nu1\n", "name it with --column UID"),
        ("u.csv", "u1\nu\x012\n", "line 2: the user 'u\\x012' holds a control character"),
        ("u.txt", "u1\tx\n", "line 1: the user 'u1\\tx' holds a control character"),
        ("u.txt", "u1\nu2\n".encode("utf-16-le"), "holds a control character; is it UTF-8 text?"),
        ("u.json", '["u1"]', "is neither text nor Parquet"),
        ("u.jsonl", '{"user": "u1"}', "is neither text nor Parquet"),
        ("u.txt.gz", gzip.compress(b"u1\n" * 1000, mtime=0)[:-9], "cannot be read: "),
    ],
)
def test_what_is_no_list_of_users_assigns_nobody(
    tmp_path: Path, experiment: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(PlatformError) as caught:
        cli.call(
            ab.app, ["assign", str(experiment), str(written(tmp_path / name, content)), "--out", str(tmp_path / "o")]
        )
    assert message in str(caught.value)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("values", "users"),
    [
        (pa.array([" u1 ", "u2"]).dictionary_encode(), ["u1", "u2"]),
        (pa.array(["u1", "u2"], pa.string_view()), ["u1", "u2"]),
        (pa.array([2**64 - 1, 7], pa.uint64()), ["18446744073709551615", "7"]),
        (pa.array([b"u1"]), None),
        (pa.array([True]), None),
        (pa.array([["u1"]]), None),
        (pa.array(["u\x01"]), None),
        (pa.array([None, "u1"]), None),
    ],
)
def test_columns_of_parquet_are_ids_or_refused(tmp_path: Path, values: Any, users: list[str] | None) -> None:
    folder = tmp_path / "uid=9"
    folder.mkdir()
    pq.write_table(pa.table({"uid": values}), folder / "u.parquet")
    if users is not None:
        assert read_users(str(folder / "u.parquet")) == users
        return
    with pytest.raises(PlatformError, match=r"uid|control character"):
        read_users(str(folder / "u.parquet"))


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize("content", [b"u\xff\n", gzip.compress(b"u1\n", mtime=0), "u1\n".encode("utf-16")])
def test_standard_input_that_is_no_text_is_refused(content: bytes, errors: str) -> None:
    with pytest.raises(PlatformError, match="standard input is not UTF-8 text"):
        read_users("-", stdin=io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", errors=errors))


def test_standard_input_is_utf_8_whatever_the_locale() -> None:
    assert read_users("-", stdin=io.TextIOWrapper(io.BytesIO("\ufeffü1\n".encode()), encoding="ascii")) == ["ü1"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("users.txt", "the command reads it"),
        ("link.txt", "the command reads it"),
        ("test.yaml", "the command reads it"),
        ("folder", "it is a folder"),
        ("", "it is a folder"),
        ("users.txt/out.csv", "cannot write"),
        ("x" * 300, "cannot write"),
    ],
)
def test_a_result_replaces_no_input_and_no_folder(tmp_path: Path, experiment: Path, out: str, message: str) -> None:
    users = written(tmp_path / "users.txt", "u1\nu2\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.txt").symlink_to(users)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(ConfigError, match=message):
        cli.call(ab.app, ["assign", str(experiment), str(users), "--out", str(tmp_path / out)])
    assert users.read_text() == "u1\nu2\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_result_goes_to_a_pipe_and_through_a_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE, text=True) as reader:
        write_output(tmp_path / "pipe", "text\n")
        assert reader.communicate()[0] == "text\n"
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_output(tmp_path / "link", "text\n")
    assert (tmp_path / "file").read_text() == "text\n"
    assert (tmp_path / "link").is_symlink()


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with pytest.raises(ConfigError, match="cannot write '/dev/full': No space left"):
        write_output(Path("/dev/full"), "text\n")


@pytest.mark.slow
def test_repeated_users_are_counted_and_a_closed_pipe_ends_in_silence(tmp_path: Path, experiment: Path) -> None:
    users = written(tmp_path / "users.txt", "".join(f"user-{n % 150_000}\n" for n in range(200_000)))
    command = f"'{sys.executable}' -m ab_analysis assign '{experiment}' '{users}' | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "user,variant\n"
    assert "rror" not in done.stderr
    cli.call(ab.app, ["assign", str(experiment), str(users), "--out", str(tmp_path / "out.csv")])
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 200_001


@pytest.mark.slow
def test_an_analysis_writes_to_standard_output_as_a_file(tmp_path: Path) -> None:
    table = written(tmp_path / "t.csv", "variant,y\na,1\nb,2\na,3\nb,5\n")
    done = subprocess.run(
        [sys.executable, "-m", "ab_analysis", "analyze", str(table), "--variant", "variant", "--control", "a", "--metric", "y",
         "--json", "/dev/stdout"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"effect": 1.5' in done.stdout
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize("command", ["assign", "plan"])
def test_a_command_checks_the_layers_of_the_workspace(tmp_path: Path, experiment: Path, command: str) -> None:
    folder = load_settings().experiments_dir
    folder.mkdir(parents=True)
    (folder / "other.yaml").write_text(EXPERIMENT.replace("test", "other") + "layer: {name: l, start: 0, end: 0.6}\n")
    experiment.write_text(EXPERIMENT + "layer: {name: l, start: 0.5, end: 1}\n")
    users = [str(written(tmp_path / "u.txt", "u1\n"))] if command == "assign" else []
    with pytest.raises(ConfigError, match=r"'other' 0 to 0\.6 at the same time"):
        cli.call(ab.app, [command, str(experiment), *users])


@pytest.mark.parametrize("command", ["assign", "plan"])
def test_a_missing_experiment_file_names_the_command_that_prints_one(tmp_path: Path, command: str) -> None:
    users = [str(written(tmp_path / "u.txt", "u1\n"))] if command == "assign" else []
    with pytest.raises(
        ConfigError, match=r"no experiment file at '/nope\.yaml'\. 'clock ab init' prints a commented file"
    ):
        cli.call(ab.app, [command, "/nope.yaml", *users])


def test_a_first_user_without_digits_among_names_is_a_user(tmp_path: Path) -> None:
    (tmp_path / "u.txt").write_text("ann\nbob\nc18\n")
    assert read_users(str(tmp_path / "u.txt")) == ["ann", "bob", "c18"]
