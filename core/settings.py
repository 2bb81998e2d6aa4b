"""The one typed settings object. Environment variables carry the ``CLOCK_`` prefix."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from core.errors import ConfigError
from core.secret_files import make_secrets, read_secret

ROOT = Path(__file__).resolve().parent.parent

DATABASES = ("airflow", "mlflow", "mlflow_auth", "feast")
"""PostgreSQL's databases in production. Each belongs to a role of the same name, whose password is the secret ``<name>_db``."""
PRODUCTION: dict[str, object] = {"online_store": "redis", "log_format": "json"}
"""Defaults that differ in the profile ``production``; an environment variable still wins."""

REPORTS_PREFIX = "/clock-reports"
CLOCK_LOOKUP = "clock"
"""Where the report pages are behind the proxy: Airflow's API server has them."""
HOST_AND_PORT = re.compile(r"([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}")
UNSAFE_IN_PATH = re.compile(r"[\\?\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}")
"""DuckDB splits names at these, or SQLite's URLs begin their parameters or escapes with them."""


def _from_text(value: object) -> object:
    """The environment has texts only, and a choice of numbers takes none."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


class Settings(BaseSettings):
    """Where state lives and how the platform behaves.

    Every source of events has its own workspace, ``<var>/<source>``, so that the simulated app and a real log
    never mix. A variable of the environment that is empty counts as not set.
    """

    model_config = SettingsConfigDict(env_prefix="CLOCK_", env_ignore_empty=True, extra="ignore", frozen=True)

    var: Path = Field(ROOT / "var", description="Folder of all run-time state.")
    profile: Literal["embedded", "production"] = Field(
        "embedded", description="embedded: everything in files of the workspace; production: servers, logins, Celery."
    )
    source: str = Field("simulator", pattern=r"^[a-z][a-z0-9_-]{0,40}$", description="Name of the event source.")

    window_days: int = Field(30, ge=1, le=365, description="Length of the clock's sliding window, days.")
    history_length: int = Field(
        100, ge=0, le=1000, description="Recent behaviors kept per user, for variants that read them; 0: none."
    )
    history_days: int = Field(180, ge=1, le=1000, description="How far back the recent behaviors reach, days.")
    top_k: int = Field(3, ge=1, le=10, description="Values kept per slot and facet.")
    score_weights: dict[str, float] = Field(
        default={"finish": 1, "like": 1, "skip": -1, "dislike": -1, "share": 1},
        description="Weight of each behavior in a facet value's score. Finishes, likes, skips and dislikes are those of the "
        "Interest Clock (Zhu et al., SIGIR 2024, arXiv 2404.19357); the paper has no shares.",
    )

    variants: tuple[str, ...] = Field(
        ("none", "hour_embedding", "naive_clock", "adaptive_clock", "gaussian_clock", "matched_clock"),
        description="Time modules whose rankers are trained every hour.",
    )
    candidate_variant: str = Field("matched_clock", description="Variant offered for promotion.")
    baseline_variant: str = Field("hour_embedding", description="Variant of the first champion.")
    seed: int = Field(2024, ge=0, lt=2**31, description="Of everything that is drawn at random.")
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="Log lines as text, or as one JSON object each."
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    slot_minutes: Annotated[Literal[15, 30, 60, 120], BeforeValidator(_from_text)] = Field(
        60, description="Width of a clock's slot."
    )
    shrinkage: bool = Field(
        False, description="Slots with few events borrow from the user's day and from everybody's clock."
    )
    split_weekend: bool = Field(False, description="Separate clocks for working days and for Saturday and Sunday.")

    engine: str = Field(
        "duckdb", pattern="^(duckdb|spark)$", description="Engine that computes clocks: duckdb or spark."
    )
    spark_master: str = Field("local[2]", description="Spark's master: local[n], or a cluster's spark://host:port.")
    spark_partitions: int = Field(8, ge=1, description="Partitions of Spark's shuffles.")

    spark_ui: str = Field(
        "",
        description="Page of a Spark application, with {application} for its id, such as http://master:8080/app/?appId={application} "
        "or a history server's; tasks in Airflow link it.",
    )
    spark_ingest_megabytes: int = Field(
        256,
        ge=0,
        description="With CLOCK_ENGINE=spark, logs of fewer megabytes are ingested by one process, which takes less time.",
    )

    spark_from_events: int = Field(
        5_000_000,
        ge=0,
        description="With CLOCK_ENGINE=spark, work on fewer events, such as most hours, is done by DuckDB in one process, which takes "
        "less time than Spark takes to start, and leaves the same rows.",
    )

    device: str = Field(
        "auto",
        pattern="^(auto|cpu|cuda)$",
        description="Where rankers are trained: cpu, cuda, or auto (a GPU if there is one and batches are large).",
    )

    train_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes on this machine that train a variant together, each with a part of the tables and of the hour; "
        "above 1 the extra distributed is needed.",
    )
    train_stall_seconds: float = Field(
        45, gt=0, description="Processes that train together are ended where none goes on for so long, seconds."
    )

    offline_store: str = Field(
        "duckdb", pattern="^(duckdb|spark)$", description="Feast offline store: duckdb or spark."
    )
    online_store: str = Field("sqlite", pattern="^(sqlite|redis)$", description="Feast online store: sqlite or redis.")
    redis_url: str = Field("127.0.0.1:6379", description="Redis server of Feast's online store, host:port.")
    registry_url: str = Field("", description="URL of Feast's SQL registry; empty: a file in the workspace.")
    mlflow_uri: str = Field(
        "", description="URL of the MLflow tracking server or database; empty: SQLite in the workspace."
    )

    secrets_dir: Path | None = Field(
        None, description="Folder with one file per secret (make secrets); empty: the workspace creates its own."
    )
    bind: str = Field("127.0.0.1", description="Address that the platform's servers listen on.")
    public_url: str = Field("", description="Address of the reverse proxy, as people type it: https://…")
    airflow_url: str = Field(
        "", description="URL at which other processes reach Airflow's API server; empty: on loopback."
    )
    postgres: str = Field("", description="PostgreSQL server of Airflow, MLflow and Feast's registry, host:port.")
    object_store: str = Field("", description="URL of an S3-compatible store for MLflow's artifacts.")
    object_bucket: str = Field("interest-clock", description="Bucket in the object store.")

    keep_models: int = Field(
        72,
        ge=2,
        description="How many of the newest model versions, and of the newest logged models per variant, are always kept.",
    )
    keep_days: int = Field(
        180, ge=0,
        description="How far back training can go, days. Older samples, states, predictions, changes of features, served "
        "requests, logs and run records are deleted every day. Events are never deleted. 0: nothing is deleted.",
    )  # fmt: skip
    alert_webhook: str = Field(
        "", pattern=r"^(https?://.+)?$", description="URL that alerts are posted to; empty: no alerts are sent."
    )
    retry_seconds: float = Field(20, gt=0, description="Time until a failed task is first retried, seconds.")
    hour_deadline_minutes: float = Field(
        45, gt=0, description="An hourly DAG run that takes longer than this raises an alert, minutes."
    )
    live: bool = Field(False, description="Ingest each hour when it is over; off: hours are triggered.")
    streaming: bool = Field(
        False, description="'clock up' also starts the lane that puts what users do in the running hour online at once."
    )
    streaming_seconds: float = Field(
        2, ge=0.1, le=600, description="How often the lane looks for new rows of the log, seconds."
    )
    streaming_train: bool = Field(
        False,
        description="The lane also trains what serving ranks by on the running hour's samples, until the hour is over.",
    )
    streaming_train_seconds: float = Field(
        60, ge=0.1, le=3600, description="How often the lane trains and publishes what fills a batch, seconds."
    )
    airflow_port: int = 8080
    feast_port: int = 8888
    mlflow_port: int = 5000
    reports_port: int = 8090
    serving_port: int = 8070
    metrics_port: int = 8060
    serving_key: SecretStr = Field(SecretStr(""), description="API key that ranking requests must send; empty: none.")
    serving_threads: int = Field(2, ge=1, le=64, description="Number of threads that rank at the same time.")
    serving_together: int = Field(
        16,
        ge=1,
        description="Most requests that a thread takes and ranks together, if so many wait; 1: each alone, the same to the last bit.",
    )
    serving_queue: int = Field(
        64, ge=1, description="Number of requests that may wait; further ones are refused with 503."
    )
    serving_timeout_ms: int = Field(
        1000, ge=10, description="A request that takes longer than this is answered with 504, milliseconds."
    )
    serving_feature_ms: int = Field(
        200,
        ge=1,
        description="A read of features that takes longer than this counts as failed and popularity ranks instead, milliseconds.",
    )
    serving_candidates: int = Field(1000, ge=1, description="Maximum number of candidates in a request.")
    serving_refresh_seconds: float = Field(
        5.0, gt=0, description="How often serving looks for new models and features, seconds."
    )
    serving_shadow: str = Field(
        "",
        description="Model whose scores are logged beside those of the model that ranks: challenger, a variant, or version:N; empty: none.",
    )
    features_as_served: bool = Field(
        False,
        description="Train on the features that serving saw, if it logged them, instead of joining them again.",
    )
    duckdb_memory: str = Field("2GB", description="Memory limit of each DuckDB query, which spills to disk beyond it.")
    duckdb_threads: int = Field(2, ge=1)

    @field_validator("score_weights")
    @classmethod
    def _known_behaviors(cls, weights: dict[str, float]) -> dict[str, float]:
        behaviors = {"finish", "like", "skip", "dislike", "share"}
        if unknown := set(weights) - behaviors:
            raise ValueError(f"unknown behaviors {sorted(unknown)}; choose from {sorted(behaviors)}")
        for behavior, weight in weights.items():
            if not abs(weight) <= 1000 or round(weight, 6) != weight:
                raise ValueError(f"{behavior}: {weight} is not from -1000 to 1000 with at most six decimals")
        return weights

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_profile(cls, values: dict[str, object]) -> dict[str, object]:
        return {**PRODUCTION, **values} if values.get("profile") == "production" else values

    @field_validator("spark_ui")
    @classmethod
    def _page_of_an_application(cls, address: str) -> str:
        if address and not re.fullmatch(r"https?://[^\s{}]*(\{application\}[^\s{}]*)?", address):
            raise ValueError(
                f"'{address}' is no address of a page; give one such as http://master:8080/app/?appId={{application}}"
            )
        return address

    @field_validator("redis_url", "postgres")
    @classmethod
    def _host_and_port(cls, address: str) -> str:
        if address and not HOST_AND_PORT.fullmatch(address):
            raise ValueError(
                f"'{address}' is no host:port; write such as db.internal:5432, without a scheme or a login"
            )
        return address

    @field_validator("duckdb_memory")
    @classmethod
    def _size(cls, size: str) -> str:
        if not re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", size, re.IGNORECASE):
            raise ValueError(f"'{size}' is no size of memory; write a number with its unit, such as 2GB or 512MB")
        return size

    @field_validator("var")
    @classmethod
    def _plain_path(cls, folder: Path) -> Path:
        if sign := UNSAFE_IN_PATH.search(str(folder.absolute())):
            raise ValueError(
                f"{str(folder.absolute())!a} holds {sign[0]!a}, which databases read as something else in a file's name; "
                "choose a folder without it"
            )
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise ValueError(f"'{folder}' cannot be a folder, as {there} is a file; choose another one")
        return folder

    @model_validator(mode="after")
    def _kept_long_enough(self) -> Settings:
        minimum = self.window_days + 2
        if 0 < self.keep_days < minimum:
            raise ValueError(
                f"keep_days: {self.keep_days} is less than the {minimum} days that the window needs; "
                f"set CLOCK_KEEP_DAYS={minimum} or more, or 0 to keep everything"
            )
        return self

    @model_validator(mode="after")
    def _no_future(self) -> Settings:
        if self.streaming:
            self.require_features_of_whole_hours()
        return self

    def require_features_of_whole_hours(self) -> None:
        """Raise ``ValueError`` if samples are trained on what serving saw, which the lane would let know of the samples themselves."""
        if self.features_as_served:
            raise ValueError(
                "CLOCK_FEATURES_AS_SERVED=true does not go with the lane (CLOCK_STREAMING): features that are seconds old know what "
                "a user did earlier in the hour, and training would read a sample's own outcome in them; set one of the two to false"
            )

    @model_validator(mode="after")
    def _complete(self) -> Settings:
        if self.profile == "production":
            required = ("secrets_dir", "public_url", "airflow_url", "postgres", "mlflow_uri", "object_store")
            if missing := [f"CLOCK_{name.upper()}" for name in required if not getattr(self, name)]:
                raise ValueError(f"CLOCK_PROFILE=production needs {', '.join(missing)} as well; see docker/README.md")
            if not self.mlflow_uri.startswith("http"):
                raise ValueError(
                    "CLOCK_MLFLOW_URI has to be a tracking server (http://…) with CLOCK_PROFILE=production"
                )
        return self

    @property
    def in_production(self) -> bool:
        return self.profile == "production"

    def secret(self, name: str) -> str:
        """A secret by its name in ``core.secret_files.SECRETS``; the embedded profile creates it on first use.

        Raises:
            ConfigError: its file is missing, unreadable or empty.
        """
        folder = self.secrets_dir or self.workspace / "secrets"
        if not self.in_production and self.secrets_dir is None:
            make_secrets(folder, (name,))
        return read_secret(folder, name)

    @property
    def ranking_key(self) -> str:
        """Key that ranking requests must send; always set in production."""
        return self.serving_key.get_secret_value() or (self.secret("serving_key") if self.in_production else "")

    def postgres_url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        """URL of one of the platform's databases, for the role of the same name.

        Args:
            database: one of ``DATABASES``.
            driver: scheme of the URL.
        """
        return f"{driver}://{database}:{self.secret(f'{database}_db')}@{self.postgres}/{database}"

    @cached_property
    def workspace(self) -> Path:
        return self.var.absolute() / self.source

    @cached_property
    def events_dir(self) -> Path:
        return self.workspace / "events"

    @cached_property
    def features_dir(self) -> Path:
        return self.workspace / "features"

    @cached_property
    def streaming_dir(self) -> Path:
        return self.workspace / "streaming"

    @cached_property
    def training_dir(self) -> Path:
        return self.workspace / "training"

    @cached_property
    def reports_dir(self) -> Path:
        return self.workspace / "reports"

    @cached_property
    def experiments_dir(self) -> Path:
        return self.workspace / "experiments"

    @cached_property
    def experiment_days_dir(self) -> Path:
        """What closed days add to experiments; derived from the events."""
        return self.workspace / "experiment_days"

    @cached_property
    def window_hours(self) -> int:
        return self.window_days * 24

    @cached_property
    def slots_per_day(self) -> int:
        return 24 * 60 // self.slot_minutes

    @cached_property
    def slots(self) -> int:
        """Number of slots in a clock; with ``split_weekend`` the weekend's slots follow those of working days."""
        return self.slots_per_day * (2 if self.split_weekend else 1)

    @cached_property
    def airflow_base(self) -> str:
        """URL at which the platform's own processes reach Airflow's API server."""
        return (self.airflow_url or f"http://127.0.0.1:{self.airflow_port}").rstrip("/")

    @cached_property
    def reports_url(self) -> str:
        """Address of the report pages for people, without a slash at its end."""
        return f"{self.public_url}{REPORTS_PREFIX}" if self.in_production else f"http://127.0.0.1:{self.reports_port}"

    @property
    def live_reports_url(self) -> str:
        """Address of the report pages within Airflow, which adds what waits there."""
        return f"{self.public_url or self.airflow_base}{REPORTS_PREFIX}"

    @property
    def clock_lookup_url(self) -> str:
        """Address of the form that draws the clock of any user."""
        return f"{self.live_reports_url}/{CLOCK_LOOKUP}"

    def page_url(self, page: Path) -> str:
        """Address of a report page for people."""
        return f"{self.reports_url}/{page.relative_to(self.reports_dir).as_posix()}"

    @cached_property
    def tracking_uri(self) -> str:
        return self.mlflow_uri or f"sqlite:///{self.workspace / 'mlflow' / 'mlflow.db'}"


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment.

    Args:
        overrides: settings that take precedence over the environment.

    Raises:
        ConfigError: lists every setting that is wrong.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(f"bad settings: {'; '.join(map(_mistake, error.errors()))}") from None
    except SettingsError as error:  # says only which setting's text is no JSON
        field = re.search(r'field "(\w+)"', str(error))
        name = f"CLOCK_{field[1].upper()}" if field else str(error)
        raise ConfigError(f'bad settings: {name} is not JSON; write a list as ["none", "matched_clock"]') from None


def _mistake(error: Any) -> str:
    """What is wrong with one setting, or with a combination of settings."""
    text = str(error["msg"]).removeprefix("Value error, ")
    return f"CLOCK_{'.'.join(map(str, error['loc'])).upper()}: {text}" if error["loc"] else text
