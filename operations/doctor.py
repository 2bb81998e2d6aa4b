"""``make doctor``: checks everything the platform depends on, and says how to fix each problem."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import metadata
from typing import Any, Literal

from core.errors import PlatformError
from core.files import exclusive_lock, read_json, scratch_directory, write_text
from core.ports import port_is_free
from core.secret_files import SECRETS
from core.settings import DATABASES, ROOT, Settings
from core.state_version import STATE_VERSION, state_version
from operations.health import AIRFLOW_PARTS, LANE_SILENT_SECONDS, airflow_health, disk_usage
from operations.processes import PORTS
from streaming.status import LaneStatus, TrainingStatus, last_seen

Status = Literal["ok", "warning", "failed"]
FREE_BYTES, FREE_SHARE = 2 * 2**30, 0.1
CLOCK_SKEW_SECONDS = 2.0
TIMEOUT_SECONDS = 5
OLDEST_POSTGRES, OLDEST_REDIS = 14, 6
WATCHED = (
    "apache-airflow",
    "mlflow",
    "feast",
    "torch",
    "duckdb",
    "evidently",
    "pandas",
    "pyarrow",
    "pyspark",
    "torchrec",
    "fbgemm-gpu-cpu",
)


@dataclass(frozen=True)
class HealthFinding:
    """The outcome of one check; ``advice`` says what to do where it is not ok."""

    check: str
    status: Status
    detail: str
    advice: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def examine(settings: Settings) -> list[HealthFinding]:
    """Run every check of the settings' profile; a check that breaks is a failed one."""
    checks: list[Callable[[Settings], Iterable[HealthFinding]]] = [
        _python,
        _versions,
        _workspace,
        _disk,
        _state,
        _sums,
        _ports,
        _engine,
    ]
    if settings.in_production:
        checks = [
            _python,
            _versions,
            _secrets,
            _workspace,
            _disk,
            _state,
            _sums,
            _postgres,
            _redis,
            _objects,
            _mlflow,
            _airflow,
            _engine,
        ]
    if last_seen(settings):
        checks.append(_streaming)
    findings: list[HealthFinding] = []
    for check in checks:
        try:
            findings += check(settings)
        except (PlatformError, OSError) as error:
            findings.append(HealthFinding(check.__name__.strip("_"), "failed", str(error), "see the message"))
    return findings


def failed(findings: list[HealthFinding]) -> int:
    """How many checks failed."""
    return sum(f.status == "failed" for f in findings)


def table(findings: list[HealthFinding]) -> str:
    """Findings as lines for a terminal."""
    sign = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}
    lines = []
    for f in findings:
        lines.append(f"{sign[f.status]}  {f.check:<22} {f.detail}")
        if f.advice:
            lines.append(f"{'':33}→ {f.advice}")
    return "\n".join(lines)


def _verdict(check: str, good: bool, detail: str, advice: str, *, bad: Status = "failed") -> HealthFinding:
    return HealthFinding(check, "ok", detail) if good else HealthFinding(check, bad, detail, advice)


def _python(settings: Settings) -> list[HealthFinding]:
    del settings
    version = ".".join(map(str, sys.version_info[:3]))
    return [_verdict("python", sys.version_info[:2] == (3, 11), version, "the pins were resolved for Python 3.11")]


def _versions(settings: Settings) -> list[HealthFinding]:
    file = "requirements-production.txt" if settings.in_production else "requirements.txt"
    files = [file, *(["requirements-spark.txt"] if settings.engine == "spark" else [])]
    files += ["requirements-distributed.txt"] if settings.train_processes > 1 else []
    text = "\n".join((ROOT / name).read_text() for name in files)
    pins = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE))
    wrong = []
    for name in [name for name in WATCHED if name in pins]:
        try:
            installed = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            installed = "missing"
        if installed != pins[name]:
            wrong.append(f"{name} {installed} instead of {pins[name]}")
    return [
        _verdict("packages", not wrong, "; ".join(wrong) or "as pinned", f"install {' and '.join(files)} (make setup)")
    ]


def _secrets(settings: Settings) -> list[HealthFinding]:
    folder = settings.secrets_dir
    assert folder is not None
    present = [name for name in SECRETS if (folder / name).exists()]
    open_ones = [n for n in present if stat.S_IMODE((folder / n).stat().st_mode) & 0o077]
    short = [n for n in present if len((folder / n).read_text().strip()) < 16]
    return [
        _verdict("secrets", bool(present), f"{len(present)} in {folder}", "make secrets"),
        _verdict("secrets' modes", not open_ones, ", ".join(open_ones) or "for the owner only",
                 f"others can read them: chmod 600 in {folder}", bad="warning"),
        _verdict("secrets' lengths", not short, ", ".join(short) or "16 characters and more", "remove them and run make secrets"),
    ]  # fmt: skip


def _has_secret(settings: Settings, name: str) -> bool:
    assert settings.secrets_dir is not None
    return (settings.secrets_dir / name).exists()


def _workspace(settings: Settings) -> list[HealthFinding]:
    folder = settings.workspace
    try:
        with scratch_directory(folder / ".doctor") as scratch:
            write_text(scratch / "a", "1")
            with exclusive_lock(scratch / "lock"):
                pass
    except OSError as error:
        return [HealthFinding("workspace", "failed", f"{folder}: {error.strerror}",
                        "the folder has to be writable, with rename and flock (NFS 4, not 3)")]  # fmt: skip
    return [HealthFinding("workspace", "ok", str(folder))]


def _disk(settings: Settings) -> list[HealthFinding]:
    usage = disk_usage(settings)
    good = usage.free >= FREE_BYTES and usage.free >= FREE_SHARE * usage.total
    detail = f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.0f} free"
    advice = "free some space: lower CLOCK_KEEP_MODELS, remove old backups and logs"
    return [_verdict("disk", good, detail, advice, bad="failed" if usage.free < FREE_BYTES else "warning")]


def _state(settings: Settings) -> list[HealthFinding]:
    version = state_version(settings)
    if version is None:
        return [HealthFinding("state", "ok", "nothing yet")]
    return [_verdict("state", version == STATE_VERSION, f"version {version}", "clock ops migrate")]


def _sums(settings: Settings) -> list[HealthFinding]:
    """Read every file of the clocks' sums again: an hour looks only at those that changed."""
    from events.store import EventStore
    from feature_repo.state import ClockStorage

    clock = ClockStorage(settings, EventStore(settings.events_dir))
    if not clock.exists():
        return [HealthFinding("sums", "ok", "none yet")]
    with exclusive_lock(clock.root / ".lock"):
        sums = clock.sums(clock.require_state())
        try:
            sums.verify()
        except PlatformError as error:
            return [HealthFinding("sums", "failed", str(error), "clock features rebuild")]
    return [HealthFinding("sums", "ok", f"{len(sums.folders)} folders match their digests")]


def _streaming(settings: Settings) -> list[HealthFinding]:
    """A lane that was started and does not go on; serving has the hour's features then."""
    status, silent = LaneStatus.read(settings), time.time() - last_seen(settings)
    well = not status.problem and silent < LANE_SILENT_SECONDS
    detail = f"{status.events:,} events of the hours since {status.as_of}"
    if not well:
        detail = status.problem or f"has not looked at the log for {silent:,.0f} s"
    followed = _verdict(
        "streaming", well, detail, "'clock stream follow' starts it again; else remove streaming/", bad="warning"
    )
    return [followed, *([_parameters(status.training)] if status.training else [])]


def _parameters(training: TrainingStatus) -> HealthFinding:
    """Parameters that were trained within the hour and must not serve; the registered versions rank then."""
    withheld = "; ".join(f"version {version}: {reason}" for version, reason in training.withheld.items())
    detail = f"{', '.join(training.parameters)}, of {training.samples:,} samples" if training.parameters else "none yet"
    advice = "the registered versions rank until the hour is over; look at the hour's rows"
    return _verdict("streaming parameters", not withheld, withheld or detail, advice, bad="warning")


def _ports(settings: Settings) -> list[HealthFinding]:

    if (settings.workspace / "services.json").exists() and read_json(settings.workspace / "services.json"):
        return [HealthFinding("ports", "ok", "the platform is running")]
    taken = [f"{getattr(settings, n)} (CLOCK_{n.upper()})" for n in PORTS if not port_is_free(getattr(settings, n))]
    return [
        _verdict("ports", not taken, ", ".join(taken) or "free", "another program has them: set others", bad="warning")
    ]


def _engine(settings: Settings) -> list[HealthFinding]:
    if settings.engine != "spark" and settings.offline_store != "spark":
        return [HealthFinding("engine", "ok", f"DuckDB, {settings.duckdb_memory}, {settings.duckdb_threads} threads")]
    java = shutil.which("java")
    findings = [_verdict("java", java is not None, java or "missing", "Spark needs Java 17 or newer (make services)")]
    if match := re.fullmatch(r"spark://([^:/]+):(\d+)", settings.spark_master):
        findings.append(_reachable("spark master", match[1], int(match[2])))
    return findings


def _reachable(check: str, host: str, port: int) -> HealthFinding:
    try:
        socket.create_connection((host, port), TIMEOUT_SECONDS).close()
    except OSError as error:
        return HealthFinding(
            check, "failed", f"{host}:{port}: {error}", "is it running, and does the network let us through?"
        )
    return HealthFinding(check, "ok", f"{host}:{port}")


def _skew(check: str, seconds: float) -> HealthFinding:
    return _verdict(f"clock of {check}", abs(seconds) <= CLOCK_SKEW_SECONDS, f"{seconds:+.1f} s from ours",
                    "hours close by the wall clock: run NTP on every machine")  # fmt: skip


def _postgres(settings: Settings) -> list[HealthFinding]:
    import psycopg

    findings: list[HealthFinding] = []
    for name in DATABASES:
        if not _has_secret(settings, f"{name}_db"):
            continue  # this service does not use the database
        try:
            with psycopg.connect(
                settings.postgres_url(name, "postgresql"), connect_timeout=TIMEOUT_SECONDS
            ) as connection:
                version, now = connection.execute(
                    "SELECT current_setting('server_version_num')::int, now()"
                ).fetchone() or (0, None)
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[-1]
            findings.append(
                HealthFinding(
                    f"database {name}", "failed", reason, "is PostgreSQL running, and was 'operations init' run?"
                )
            )
            continue
        major = version // 10000
        findings.append(_verdict(f"database {name}", major >= OLDEST_POSTGRES, f"PostgreSQL {major}",
                                 f"PostgreSQL {OLDEST_POSTGRES} or newer"))  # fmt: skip
        if now is not None and not any(f.check == "clock of PostgreSQL" for f in findings):
            findings.append(_skew("PostgreSQL", now.timestamp() - time.time()))
    return findings


def _redis(settings: Settings) -> list[HealthFinding]:
    import redis

    host, port = settings.redis_url.rsplit(":", 1)
    client = redis.Redis(host, int(port), password=settings.secret("redis"), socket_timeout=TIMEOUT_SECONDS)
    try:
        about: dict[str, Any] = client.info()  # type: ignore[assignment]
        seconds, micros = client.time()  # type: ignore[misc]
    except redis.RedisError as error:
        return [
            HealthFinding(
                "redis",
                "failed",
                str(error),
                f"is Redis at {settings.redis_url} running, with the password of the secret redis?",
            )
        ]
    version = str(about["redis_version"])
    policy = str(about.get("maxmemory_policy", ""))
    return [
        _verdict("redis", int(version.split(".", maxsplit=1)[0]) >= OLDEST_REDIS, f"Redis {version}", f"Redis {OLDEST_REDIS} or newer"),
        _verdict("redis' memory", policy == "noeviction", policy,
                 "set maxmemory-policy noeviction: features and queued tasks must not be dropped to make room"),
        _skew("Redis", seconds + micros / 1e6 - time.time()),
    ]  # fmt: skip


def _objects(settings: Settings) -> list[HealthFinding]:
    from botocore.exceptions import BotoCoreError, ClientError

    from operations.init import object_store

    if not _has_secret(settings, "object_store_key"):
        return []
    client: Any = object_store(settings)
    key = f"doctor-{os.getpid()}"
    try:
        put = client.put_object(Bucket=settings.object_bucket, Key=key, Body=b"1")
        whole = client.get_object(Bucket=settings.object_bucket, Key=key)["Body"].read() == b"1"
        client.delete_object(Bucket=settings.object_bucket, Key=key)
    except (BotoCoreError, ClientError) as error:
        return [
            HealthFinding(
                "object store",
                "failed",
                str(error)[:200],
                f"is {settings.object_store} running, and was 'operations init' run?",
            )
        ]
    date = put["ResponseMetadata"]["HTTPHeaders"].get("date")
    findings = [
        _verdict("object store", whole, f"bucket {settings.object_bucket}", "it gave back another content than was put")
    ]
    if date:
        findings.append(_skew("the object store", (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()))
    return findings


def _mlflow(settings: Settings) -> list[HealthFinding]:
    import httpx

    from model_registry.store import SERVICE_USER

    login = (SERVICE_USER, settings.secret("mlflow_service")) if _has_secret(settings, "mlflow_service") else None
    try:
        version = httpx.get(f"{settings.mlflow_uri}/version", auth=login, timeout=TIMEOUT_SECONDS).text.strip()
        anonymous = httpx.post(
            f"{settings.mlflow_uri}/api/2.0/mlflow/experiments/search", json={"max_results": 1}, timeout=TIMEOUT_SECONDS
        )
    except httpx.HTTPError as error:
        return [HealthFinding("mlflow", "failed", f"{settings.mlflow_uri}: {error}", "is the service mlflow running?")]
    client = metadata.version("mlflow")
    findings = [
        _verdict("mlflow", version == client, f"server {version}, client {client}",
                 "run the same image for both", bad="warning"),
        _verdict("mlflow's logins", anonymous.status_code == 401, f"anonymous requests get {anonymous.status_code}",
                 "start it with --app-name basic-auth"),
    ]  # fmt: skip
    if login:
        from model_registry.store import open_mlflow

        open_mlflow(settings)
        findings.append(HealthFinding("mlflow's own login", "ok", "accepted"))
    return findings


def _airflow(settings: Settings) -> list[HealthFinding]:

    health = airflow_health(settings)
    findings = [
        _verdict(
            name, health[part]["status"] == "healthy", str(health[part]["status"]), f"is the service {name} running?"
        )
        for name, part in AIRFLOW_PARTS.items()
    ]
    database = health["metadatabase"]["status"]
    return [*findings, _verdict("airflow's database", database == "healthy", database, "see the database's checks")]
