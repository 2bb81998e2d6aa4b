"""Speed of the ranking service: a real server process and a load generator on loopback, both on these cores."""

from __future__ import annotations

import http.client
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil
import yaml

from benchmarks.result import Result
from core.garbage import settle
from core.hours import Hour
from core.settings import Settings, load_settings

CANDIDATES, RATE, CLIENTS = 200, 50, 8
CONNECTIONS = 16
"""Of clients that send their next request as soon as they have an answer: the service is never idle."""
VARIANTS = ("gaussian_clock", "matched_clock")
MOST_DEGRADED = 0.01
"""Share of requests that may go without a full answer in a run that counts."""


def bench_serving(scale: float) -> list[Result]:
    """Latency at 50 requests a second of 200 candidates, for each variant; failed requests while champions are swapped.

    The peer is what a user would write: Feast's online features into a data frame into MLflow's pyfunc, without HTTP.
    At last the most requests a second of the variant that ranked last, beside the same with each request ranked alone.
    """
    from model_registry.registry import CHAMPION
    from model_registry.store import open_registry
    from operations.processes import running
    from operations.services import serving_service

    results = []
    with tempfile.TemporaryDirectory() as folder:
        settings, until = _workspace(Path(folder), scale)
        models = open_registry(settings)
        versions = {v: models.newest(v) or "" for v in VARIANTS}
        seconds = max(60 * scale, 5)
        settle()  # collecting what built the workspace would stall the load generator, not the server
        with running(settings, [serving_service(settings)]):
            url = f"http://127.0.0.1:{settings.serving_port}"
            for variant in VARIANTS:
                models.move(CHAMPION, versions[variant], "bench")
                _until_served(url, versions[variant])
                _load(settings, url, until, 5)
                before = _cpu_seconds()
                took, failed, degraded = _load(settings, url, until, seconds)
                if failed + degraded > MOST_DEGRADED * len(took):
                    raise RuntimeError(
                        f"{failed} requests failed and {degraded} answers were degraded, of {len(took)}: what is quick without a "
                        f"model or features is no measure of ranking; see the service's log, and run it on a quieter machine"
                    )
                spent = (_cpu_seconds() - before) / len(took)
                begun = time.process_time()
                peer = _naive(settings, models.name, versions[variant], until)
                name = variant.removesuffix("_clock")
                label = "Feast and MLflow's pyfunc by hand, no HTTP"
                for part, q in (("p50", 50), ("p99", 99)):
                    ours, theirs = (float(np.percentile(v, q)) * 1000 for v in (took, peer))
                    results.append(Result(f"serve_{part}_{name}", ours, "ms", label, theirs, theirs / ours))
                by_hand = (time.process_time() - begun) / len(peer)
                results.append(Result(f"serve_cpu_{name}", spent * 1000, "ms", label, by_hand * 1000, by_hand / spent))
                bad = Result(
                    f"serve_errors_{name}", failed, "", f"degraded, of {len(took)} requests", degraded, float("nan")
                )
                results.append(bad)
            with _swapping(lambda n: models.move(CHAMPION, versions[VARIANTS[n % 2]], "bench")) as swaps:
                took, failed, _ = _load(settings, url, until, max(30 * scale, 10))
            results.append(
                Result("serve_swap_errors", failed, "", f"swaps, {len(took)} requests", swaps[0], float("nan"))
            )
            models.move(CHAMPION, versions[VARIANTS[-1]], "bench")
        together, alone = (
            _most(settings.model_copy(update={"serving_together": n}), until, versions[VARIANTS[-1]], seconds)
            for n in (settings.serving_together, 1)
        )
        name = f"serve_most_{VARIANTS[-1].removesuffix('_clock')}"
        results.append(Result(name, together, "requests/s", "each ranked alone", alone, together / alone))
    return results


def _workspace(folder: Path, scale: float) -> tuple[Settings, Hour]:
    """A trained workspace of the simulated app."""
    from core.ports import free_port
    from pipeline.history import build_history
    from pipeline.source import save_app_source
    from simulation.config import SimulatorConfig

    settings = load_settings(
        var=folder, source="simulator", variants=VARIANTS, candidate_variant=VARIANTS[1], baseline_variant=VARIANTS[0],
        serving_port=free_port(), serving_refresh_seconds=1.0,
    )  # fmt: skip
    app = SimulatorConfig(days=9, users=max(int(3000 * scale), 200), items=max(int(1500 * scale), 300))
    settings.workspace.mkdir(parents=True)
    (settings.workspace / "app.yaml").write_text(yaml.safe_dump(app.model_dump(mode="json")))
    save_app_source(settings)
    until = app.first_hour + 24 * 6 + 12  # the middle of the day in most of the app's zones
    build_history(settings, until)
    return settings, until


def _bodies(settings: Settings, until: Hour, count: int) -> list[dict[str, object]]:
    from simulation.workspace import app_log

    app, rng = app_log(settings).app, np.random.default_rng(0)
    at = (until.start + timedelta(minutes=20)).isoformat()
    keys = np.array([app.item_key(n) for n in range(app.config.items)])
    return [
        {
            "user": app.user_key(int(rng.integers(app.config.users))), "time": at, "zone": "Asia/Shanghai", "count": 50,
            "candidates": rng.choice(keys, min(CANDIDATES, len(keys)), replace=False).tolist(),
        }
        for _ in range(count)
    ]  # fmt: skip


def _load(settings: Settings, url: str, until: Hour, seconds: float) -> tuple[np.ndarray, int, int]:
    """Send requests at a fixed rate, however long answers take.

    Returns:
        Seconds of each request since it was due, and the numbers of failures and of degraded answers.
    """
    bodies = _bodies(settings, until, int(RATE * seconds))
    took, statuses, degraded = np.zeros(len(bodies)), np.zeros(len(bodies), int), np.zeros(len(bodies), bool)
    with httpx.Client(base_url=url, timeout=30) as client, ThreadPoolExecutor(CLIENTS) as pool:
        begun = time.perf_counter() + 0.1

        def ask(n: int) -> None:
            due = begun + n / RATE
            time.sleep(max(due - time.perf_counter(), 0))
            answer = client.post("/rank", json=bodies[n])
            took[n], statuses[n] = time.perf_counter() - due, answer.status_code
            degraded[n] = answer.status_code != 200 or answer.json()["degraded"] is not None

        list(pool.map(ask, range(len(bodies))))
    return took, int((statuses != 200).sum()), int(degraded.sum())


def _most(settings: Settings, until: Hour, version: str, seconds: float) -> float:
    """Full answers a second to clients who each send their next request at once."""
    from operations.processes import running
    from operations.services import serving_service

    bodies = [json.dumps(body) for body in _bodies(settings, until, 200)]
    answers: Counter[bool] = Counter()

    def ask(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", settings.serving_port, timeout=30)
        n = first
        while time.monotonic() < end:
            connection.request("POST", "/rank", bodies[n % len(bodies)], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answers[b'"degraded":null' in answer.read() and answer.status == 200] += 1
            n += CONNECTIONS

    with running(settings, [serving_service(settings)]), ThreadPoolExecutor(CONNECTIONS) as pool:
        _until_served(f"http://127.0.0.1:{settings.serving_port}", version)
        for length in (min(seconds, 5), seconds):  # the first time to warm up
            answers.clear()
            end = time.monotonic() + length
            list(pool.map(ask, range(CONNECTIONS)))
    if answers[False] > MOST_DEGRADED * answers.total():
        raise RuntimeError(f"{answers[False]} of {answers.total()} requests had no full answer; see the service's log")
    return answers[True] / seconds


def _cpu_seconds() -> float:
    """CPU time of the processes that this one started: the server's."""
    return sum(p.cpu_times().user + p.cpu_times().system for p in psutil.Process().children(recursive=True))


def _until_served(url: str, version: str) -> None:
    end = time.monotonic() + 60
    while httpx.get(f"{url}/model").json()["models"].get("champion", {}).get("version") != version:
        if time.monotonic() > end:
            raise RuntimeError(f"version {version} was not taken over")
        time.sleep(0.2)


@contextmanager
def _swapping(move: Callable[[int], object]) -> Iterator[list[int]]:
    """Move the champion every few seconds within a ``with`` block; yields the number of moves."""
    stop, swaps = threading.Event(), [0]

    def run() -> None:
        while not stop.wait(3):
            move(swaps[0])
            swaps[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield swaps
    finally:
        stop.set()
        thread.join()


def _naive(settings: Settings, name: str, version: str, until: Hour, requests: int = 100) -> np.ndarray:
    """Seconds of each request, with Feast and MLflow used directly."""
    import mlflow

    from events.store import EventStore
    from feature_repo.retrieval import ClockFeatures

    model = mlflow.pyfunc.load_model(f"models:/{name}/{version}")
    features = ClockFeatures(settings, EventStore(settings.events_dir))
    facets, slots = features.facets, settings.slots
    rng, took = np.random.default_rng(1), []
    input_names = set(model.metadata.get_input_schema().input_names())
    for user in rng.integers(1, 150, requests):
        begun = time.perf_counter()
        features_read = features.online([int(user)], until)
        clock = {row["slot"]: row for row in features_read.slots.to_pylist()}
        profile = features_read.profiles.to_pylist()[:1] or [{"events": 0, "finish": 0}]
        history = features_read.history.to_pylist()[:1] or [{"items": [], "minutes": []}]
        cells: dict[str, object] = {
            "history_items": history[0]["items"], "history_minutes": history[0]["minutes"],
            "slot_events": [clock[s]["events"] if s in clock else 0 for s in range(slots)],
        }  # fmt: skip
        for facet in facets:
            for part in ("values", "scores"):
                cells[f"{facet}_{part}"] = [clock[s][f"{facet}_{part}"] if s in clock else [] for s in range(slots)]
        rows: dict[str, object] = {
            "user_id": np.full(CANDIDATES, user), "item_id": np.arange(1, CANDIDATES + 1),
            "local_time": pd.Timestamp("2026-03-08T20:20:00"), "events": profile[0]["events"],
            "finish": profile[0]["finish"], **dict.fromkeys(facets, "value"),
        }  # fmt: skip
        frame = pd.DataFrame(rows)
        for column in input_names & set(cells):
            frame[column] = [cells[column]] * CANDIDATES
        model.predict(frame)
        took.append(time.perf_counter() - begun)
    return np.array(took[5:])
