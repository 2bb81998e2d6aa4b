"""A person who asks to be forgotten is in no file and no store afterwards, stays out, and nobody else's data change."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from core.errors import DataError
from core.settings import Settings, load_settings
from events.forget import find_people
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.retrieval import ClockFeatures
from model_registry.registry import CHAMPION
from model_registry.store import open_registry
from operations.backup import back_up, restore
from pages.clocks import write_clock_page
from pages.index import write_index
from pipeline.forgetting import digest_of, forget, forget_digest, pending_file
from pipeline.history import build_history
from pipeline.hour import run_hour
from pipeline.reports import report_experiment
from pipeline.source import save_app_source
from pipeline.training import stale_hours
from serving.engine import RankingEngine
from serving.stages import RankRequest
from simulation.config import SimulatorConfig
from tests.conftest import SMALL_POLICY, copy_var, place_tracking_store, write_app
from training.model import load_model
from training.state import StateStore

pytestmark = pytest.mark.slow

APP = SimulatorConfig(days=3, users=40, items=50, experiment={"start_day": 1}, dirt={"damaged": 0.02, "late": 0.02})
UNTIL = APP.first_hour + 30
HOURS = 2
"""Hours run one by one after the history: their states build on each other."""
VARIANTS = ("hour_embedding", "matched_clock")
EXPERIMENT = f"""\
name: clock_ranker
variants: {{control: 0.5, treatment: 0.5}}
control: control
salt: "2026-03"
start: {APP.start + timedelta(days=1)}
models: {{control: champion, treatment: champion}}
"""


def request(user: str) -> RankRequest:
    at = (UNTIL + HOURS).start + timedelta(minutes=10)
    items = tuple(f"t{n:06d}" for n in range(20))
    return RankRequest(f"request-of-{user}", user, at, int(at.timestamp() // 60), items, 10)


def serve(settings: Settings, *users: str) -> None:
    engine = RankingEngine(settings)
    engine.refresh()
    for user in users:
        engine.rank(request(user))
    engine.close()


@dataclass(frozen=True)
class Lived:
    """A workspace in which a person left traces everywhere."""

    settings: Settings
    user: str
    number: int
    others: tuple[int, ...]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    settings = load_settings(
        var=tmp_path_factory.mktemp("lived") / "var",
        source="simulator",
        variants=VARIANTS,
        serving_feature_ms=5_000,
        serving_refresh_seconds=0.1,
    )
    write_app(settings.workspace, APP, SMALL_POLICY)
    settings.experiments_dir.mkdir(parents=True, exist_ok=True)
    (settings.experiments_dir / "clock_ranker.yaml").write_text(EXPERIMENT)
    place_tracking_store(settings)
    save_app_source(settings)
    build_history(settings, UNTIL)
    models = open_registry(settings)
    version = models.newest("matched_clock", UNTIL.key)
    assert version is not None
    models.move(CHAMPION, version, "for the tests of forgetting")
    for n in range(HOURS):
        run_hour(settings, UNTIL + n)
    store = EventStore(settings.events_dir)
    features = ClockFeatures(settings, store)
    last = store.read(UNTIL + HOURS - 1)["user_id"].to_pylist()  # who is new in the last hours is in deltas alone
    number = next(user for user in features.most_active(30) if user in last)
    names = dict(_ids(store))
    user = names[number]
    serve(settings, user, next(name for other, name in names.items() if other != number))
    report_experiment(settings, "clock_ranker", UNTIL + HOURS)
    write_clock_page(features, number)
    write_index(settings)
    quarantine = settings.events_dir / "_quarantine" / "abc.jsonl"
    quarantine.write_text(
        json.dumps({"reason": "bad_timestamp", "row": 3, "content": {"uid": user, "ts": "never"}}) + "\n"
    )
    return Lived(settings, user, number, tuple(sorted(set(names) - {number})))


def _ids(store: EventStore) -> list[tuple[int, str]]:
    tables = [pq.ParquetFile(path).read() for path in sorted((store.root / "_ids").glob("user*.parquet"))]
    return [(row["id"], row["key"]) for table in tables for row in table.to_pylist()]


def copied(lived: Lived, folder: Path) -> Settings:
    copy_var(lived.settings.var, folder / "var")
    shutil.copytree(
        lived.settings.workspace / "mlflow" / "artifacts", folder / "var" / "simulator" / "mlflow" / "artifacts"
    )
    settings = load_settings(**{**lived.settings.model_dump(exclude_unset=True), "var": folder / "var"})
    _move_artifacts(settings, lived.settings)
    save_app_source(settings)
    return settings


def _move_artifacts(settings: Settings, original: Settings) -> None:
    """Let a copied MLflow store speak of the copied artifacts."""
    pairs = str(original.workspace), str(settings.workspace)
    with closing(sqlite3.connect(settings.workspace / "mlflow" / "mlflow.db")) as con, con:
        for (table,) in con.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for name, kind in con.execute("SELECT name, type FROM pragma_table_info(?)", (table,)).fetchall():
                if "CHAR" in kind or "TEXT" in kind:
                    con.execute(f'UPDATE "{table}" SET "{name}" = replace("{name}", ?, ?)', pairs)


def traces(settings: Settings, user: str, number: int) -> set[str]:
    """Files below a workspace, without the source's raw log, that hold a person.

    Knows formats of files only, not which file is there for what.
    """
    held = set()
    for path in sorted(p for p in settings.workspace.rglob("*") if p.is_file() and not p.is_symlink()):
        name = path.relative_to(settings.workspace).as_posix()
        if name.startswith("app/"):
            continue
        inside = user.encode() in path.read_bytes()
        if path.suffix == ".parquet":
            inside = inside or in_table(pq.ParquetFile(path).read(), user, number)
        if path.name == "weights.safetensors":
            inside = inside or number in load_file(path)["tables.users.keys"]
        if path.read_bytes().startswith(b"SQLite format 3"):
            inside = inside or in_database(path, user, number)
        if inside:
            held.add(name)
    return held


def in_table(table: pa.Table, user: str, number: int) -> bool:
    texts = [f.name for f in table.schema if pa.types.is_string(f.type)]
    named = any(pc.any(pc.match_substring(table[name], user)).as_py() for name in texts)
    return named or ("user_id" in table.column_names and number in table["user_id"].to_pylist())


def in_database(path: Path, user: str, number: int) -> bool:
    with closing(sqlite3.connect(path)) as con:
        tables = [table for (table,) in con.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = []
        for table in tables:
            columns = [name for (name,) in con.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            rows += [dict(zip(columns, row, strict=True)) for row in con.execute(f'SELECT * FROM "{table}"')]
    return any(in_row(row, user, number) for row in rows)


def in_row(row: dict[str, object], user: str, number: int) -> bool:
    key = row.get("entity_key")
    entity = isinstance(key, bytes) and b"user_id" in key and key.endswith(number.to_bytes(8, "little"))
    return entity or row.get("user_id") == number or any(user in cell for cell in row.values() if isinstance(cell, str))


def clocks(settings: Settings, users: tuple[int, ...]) -> list[pa.Table]:
    """What features of users were at some hours, offline, and are online; not which hour wrote a row last."""
    store = EventStore(settings.events_dir)
    features = ClockFeatures(settings, store)
    asked = [(user, hour.number) for hour in (UNTIL - 8, UNTIL + HOURS) for user in users]
    keys = pa.table({"user_id": [u for u, _ in asked], "hour": [h for _, h in asked]})
    past, now = features.historical(keys), features.online(users, UNTIL + HOURS)
    tables = [table for each in (past, now) for table in (each.slots, each.profiles, each.history)]
    return [table.select([name for name in table.column_names if name != "as_of"]) for table in tables]


def test_nothing_of_a_forgotten_person_is_left_and_everybody_else_stays(lived: Lived, tmp_path: Path) -> None:
    settings = copied(lived, tmp_path)
    before = traces(settings, lived.user, lived.number)
    for part in (
        "events/hour=", "events/_ids", "events/_quarantine", "features/clock_slots", "features/sums", "features/recent",
        "feast/online.db", "training/samples", "training/predictions", "training/states/matched_clock",
        "training/states/hour_embedding", "training/versions", "mlflow/artifacts", "serving/log", "serving/exposures",
        "experiment_days", "reports/clocks", "reports/index.html",
    ):  # fmt: skip
        assert any(name.startswith(part) for name in before), part
    states = {v: StateStore(settings.training_dir / "states", v) for v in VARIANTS}
    assert any(states[v].info(h).builds_on for v in VARIANTS for h in states[v].hours())
    others, stale = clocks(settings, lived.others), stale_hours(settings)
    ranked = states["matched_clock"].load(UNTIL + HOURS - 1)[1]
    rows = ranked.users.weight[ranked.users.rows(pa.array(lived.others).to_numpy())]

    report = forget(settings, [lived.user])

    assert traces(settings, lived.user, lived.number) == set()
    for kind in (
        "events", "exposures", "quarantined", "hours", "exposure_lines", "requests", "served_features", "experiment_days",
        "samples", "predictions", "states", "models", "recent_behaviors", "online", "pages", "ids",
    ):  # fmt: skip
        assert report.removed[kind] > 0, kind
    assert report.people == [digest_of(settings, lived.user)]
    for n, (was, now) in enumerate(zip(others, clocks(settings, lived.others), strict=True)):
        assert now.to_pydict() == was.to_pydict(), n
    store = EventStore(settings.events_dir)
    assert all(store.read(hour, verify=True).num_rows == store.manifest(hour).rows for hour in store.hours())
    assert stale_hours(settings) == stale
    ClockState(settings, store).sums(ClockState(settings, store).require_state()).verify()
    for variant, chain in states.items():
        for hour in chain.hours():
            assert chain.load(hour)[1].users.rows(pa.array([lived.number]).to_numpy()).tolist() == [0], (variant, hour)
    ranked = states["matched_clock"].load(UNTIL + HOURS - 1)[1]
    assert ranked.users.weight[ranked.users.rows(pa.array(lived.others).to_numpy())].equal(rows)
    logged = list(settings.workspace.glob("mlflow/artifacts/**/weights.safetensors"))
    assert all(load_model(weights.parent).ranker.users.size > 1 for weights in logged)

    forget(settings, [lived.user])  # again: nothing is left to remove
    serve(settings, lived.user)
    assert run_hour(settings, UNTIL + HOURS).kept > 0  # the raw log still has them
    assert traces(settings, lived.user, lived.number) == set()


def test_what_a_running_service_had_not_written_yet_is_removed_too(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests of the last seconds are in its memory, and it reads the list with its next refresh."""
    settings = copied(lived, tmp_path)
    engine = RankingEngine(settings)
    assert engine.request_log is not None
    engine.refresh()
    waited: list[float] = []

    def service_goes_on(seconds: float) -> None:
        waited.append(seconds)
        engine.rank(request(lived.user))
        engine.refresh()
        engine.request_log.flush()  # type: ignore[union-attr]

    engine.rank(request(lived.user))
    engine.request_log.flush()
    monkeypatch.setattr(
        "pipeline.forgetting.time", SimpleNamespace(monotonic=lambda: 0.0, time=time.time, sleep=service_goes_on)
    )
    forget(settings, [lived.user])
    engine.close()
    assert waited
    assert waited[0] > settings.serving_refresh_seconds
    assert traces(settings, lived.user, lived.number) == set()


def test_a_removal_that_is_interrupted_is_completed_by_the_next(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = copied(lived, tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    samples = next(name for name in traces(settings, lived.user, lived.number) if name.startswith("training/samples"))
    folder = (settings.workspace / samples).parent
    folder.rename(folder.with_name(f".{folder.name}.old"))  # an earlier one was killed while it replaced this folder
    with monkeypatch.context() as patch:
        patch.setattr(ClockState, "rebuild", full)
        with pytest.raises(OSError, match="No space left"):
            forget_digest(settings, digest_of(settings, lived.user))
    assert pending_file(settings).exists()
    assert traces(settings, lived.user, lived.number)
    forget(settings, [])
    assert traces(settings, lived.user, lived.number) == set()
    with pytest.raises(DataError, match="nobody to forget"):
        forget(settings, [])
    with pytest.raises(DataError, match=r"nobody in .* has the digest"):
        forget_digest(settings, digest_of(settings, lived.user))


def test_a_backup_from_before_does_not_bring_a_forgotten_person_back(lived: Lived, tmp_path: Path) -> None:
    settings = copied(lived, tmp_path)
    backup = Path(back_up(settings, tmp_path / "backups").backup)
    forget(settings, [lived.user])
    settings.workspace.rename(tmp_path / "away")
    restore(settings, backup)
    assert find_people(EventStore(settings.events_dir), [lived.user])[0].number is None
    shutil.rmtree(settings.workspace / "app")
    assert traces(settings, lived.user, lived.number) == set()
