"""The platform's services: for each its command and environment, in either profile.

Embedded: everything on loopback, on SQLite, without a login. Production: PostgreSQL, Redis, object storage, a Celery
executor, logins. ``docker/compose.yaml`` names these services, ``clock ops service NAME`` becomes one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from core.environment import platform_environment
from core.errors import ConfigError, NotReadyError
from core.files import scratch_directory, write_atomically, write_text
from core.secret_files import PRIVATE
from core.settings import ROOT, Settings
from operations.processes import ServiceProcess

FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
AIRFLOW = (sys.executable, "-m", "operations.airflow_command")
"""What starts any process of Airflow, before its subcommand."""
CELERY_DATABASE = 1
"""Redis database of the broker; the online store has 0."""
LOGIN_CACHE_SECONDS = 30
"""MLflow checks a password's slow hash at every request unless it may remember for so long; a changed login lasts so long."""
FASTER_THAN_AIRFLOW = {
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
    "SCHEDULER__TASK_QUEUED_TIMEOUT": "300",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "60",
}
"""A lost worker's tasks start again within minutes: Airflow's own patience would cost a quarter of the hour."""
MLFLOW_PREFIX = "/mlflow"
"""Where MLflow is behind the proxy."""


def airflow_environment(settings: Settings) -> dict[str, str]:
    """What every Airflow process of a workspace has in its environment besides this process's own."""
    home, base = airflow_home(settings), settings.airflow_base
    config = {
        "CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "CORE__PLUGINS_FOLDER": str(ROOT / "dags" / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__EXECUTION_API_SERVER_URL": f"{base}/execution/",
        "CORE__FERNET_KEY": settings.secret("airflow_fernet"),
        "API__HOST": settings.bind,
        "API__PORT": str(settings.airflow_port),
        "API__BASE_URL": settings.public_url or base,
        "API__WORKERS": "1",
        "API__SECRET_KEY": settings.secret("airflow_api"),
        "API__EXPOSE_CONFIG": "False",
        "API_AUTH__JWT_SECRET": settings.secret("airflow_jwt"),
        "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
        "LOGGING__LOGGING_LEVEL": "INFO",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
        **(_production(settings) if settings.in_production else _embedded(home)),
    }
    return {
        **platform_environment(settings),
        **{f"AIRFLOW__{k}": v for k, v in config.items()},
        "AIRFLOW_HOME": str(home),
    }


def airflow_home(settings: Settings) -> Path:
    """Airflow's folder in the workspace."""
    return settings.workspace / "airflow"


def _embedded(home: Path) -> dict[str, str]:
    return {
        "CORE__EXECUTOR": "operations.preloading_executor.PreloadingLocalExecutor",
        "CORE__PARALLELISM": "3",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",  # an hour waits for the scheduler some ten times
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "2",  # for so long a task that has just ended may hold one of the three places
    }


def _production(settings: Settings) -> dict[str, str]:
    return {
        "CORE__EXECUTOR": "CeleryExecutor",
        "CORE__AUTH_MANAGER": FAB,
        "CORE__HIDE_SENSITIVE_VAR_CONN_FIELDS": "True",
        "DATABASE__SQL_ALCHEMY_CONN": settings.postgres_url("airflow"),
        "DATABASE__SQL_ALCHEMY_CONN_ASYNC": settings.postgres_url("airflow"),
        "CELERY__BROKER_URL": f"redis://:{settings.secret('redis')}@{settings.redis_url}/{CELERY_DATABASE}",
        "CELERY__RESULT_BACKEND": "db+" + settings.postgres_url("airflow"),
        "CELERY__WORKER_CONCURRENCY": "2",
        "CELERY__CELERY_CONFIG_OPTIONS": "operations.celery_options.OPTIONS",
        "FAB__COOKIE_SECURE": str(settings.public_url.startswith("https")),
        "FAB__ENABLE_PROXY_FIX": "True",
        "WORKERS__EXECUTION_API_RETRIES": "10",
        **{name: value for name, value in FASTER_THAN_AIRFLOW.items() if f"AIRFLOW__{name}" not in os.environ},
    }


def migrate_airflow(settings: Settings) -> None:
    """Create or upgrade Airflow's database."""
    home = airflow_home(settings)
    home.mkdir(parents=True, exist_ok=True)
    environment, database = {**os.environ, **airflow_environment(settings)}, home / "airflow.db"
    with scratch_directory(home / "new") as folder:
        fresh = not settings.in_production and not database.exists()
        if fresh:  # a new database is made in a separate folder: a crash leaves no half-migrated one
            environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{folder / database.name}"
        done = subprocess.run([*AIRFLOW, "db", "migrate"], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            write_text(home / "migrate.log", done.stdout + done.stderr)
            raise NotReadyError(f"Airflow's database could not be made ready; see {home / 'migrate.log'}")
        if fresh:
            (folder / database.name).replace(database)


def airflow_services(settings: Settings) -> list[ServiceProcess]:
    """The processes of Airflow: four, and in production a Celery worker."""
    environment = airflow_environment(settings)
    # Airflow builds the tasks' part of its API at its first request: seconds for which else the first task would wait.
    health = f"{_local(settings, settings.airflow_port)}/execution/health"
    server = (*AIRFLOW, "api-server", *(("--proxy-headers",) if settings.in_production else ()))
    services = [
        ServiceProcess("airflow-api-server", server, health, environment),
        ServiceProcess("airflow-scheduler", (*AIRFLOW, "scheduler"), None, environment),
        ServiceProcess("airflow-dag-processor", (*AIRFLOW, "dag-processor"), None, environment),
        ServiceProcess("airflow-triggerer", (*AIRFLOW, "triggerer"), None, environment),
    ]
    if settings.in_production:
        services.append(ServiceProcess("airflow-worker", (*AIRFLOW, "celery", "worker"), None, environment))
    return services


def mlflow_service(settings: Settings) -> ServiceProcess:
    """MLflow's server: in production with logins, on PostgreSQL, its artifacts in the object store."""
    environment = platform_environment(settings)
    command = [program("mlflow"), "server", "--host", settings.bind, "--port", str(settings.mlflow_port),
               "--workers", "1"]  # fmt: skip
    if settings.in_production:
        command += ["--app-name", "basic-auth", "--artifacts-destination", f"s3://{settings.object_bucket}/mlflow",
                    "--static-prefix", MLFLOW_PREFIX, "--allowed-hosts", "*"]  # fmt: skip
        environment |= {
            "MLFLOW_BACKEND_STORE_URI": settings.postgres_url("mlflow"),
            "MLFLOW_AUTH_CONFIG_PATH": str(_mlflow_logins(settings)),
            "MLFLOW_AUTH_ADMIN_PASSWORD": settings.secret("mlflow_admin"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": settings.secret("mlflow_flask"),
            "MLFLOW_S3_ENDPOINT_URL": settings.object_store,
            "AWS_ACCESS_KEY_ID": settings.secret("object_store_key"),
            "AWS_SECRET_ACCESS_KEY": settings.secret("object_store_secret"),
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    else:
        from model_registry.store import open_mlflow

        open_mlflow(settings)
        artifacts = (settings.workspace / "mlflow" / "artifacts").as_uri()
        command += ["--backend-store-uri", settings.tracking_uri, "--default-artifact-root", artifacts]
    return ServiceProcess("mlflow", tuple(command), mlflow_health(settings), environment)


def mlflow_health(settings: Settings) -> str:
    """Where MLflow's server on this machine says that it is well."""
    prefix = MLFLOW_PREFIX if settings.in_production else ""
    return f"{_local(settings, settings.mlflow_port)}{prefix}/health"


def _mlflow_logins(settings: Settings) -> Path:
    """MLflow's own file about logins, which has to hold its database's password: readable by the owner only."""
    path = settings.workspace / "mlflow" / "logins.ini"
    text = (
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = {settings.postgres_url('mlflow_auth')}\nauth_cache_ttl_seconds = {LOGIN_CACHE_SECONDS}\n"
    )
    write_atomically(path, lambda target: target.write_text(text), mode=PRIVATE)
    return path


def page_services(settings: Settings) -> list[ServiceProcess]:
    """MLflow's UI and, in the embedded profile, the report pages (in production Airflow serves those, behind its login)."""
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    reports = (sys.executable, "-m", "http.server", str(settings.reports_port), "--bind", settings.bind,
               "--directory", str(settings.reports_dir))  # fmt: skip
    pages = [mlflow_service(settings)]
    if not settings.in_production:
        pages.append(ServiceProcess("reports", reports, f"{_local(settings, settings.reports_port)}/"))
    return pages


def feast_ui_service(settings: Settings) -> ServiceProcess:
    """Feast's UI on the workspace's registry."""
    command = (sys.executable, "-m", "feature_repo.feast_import", "-c", str(feast_folder(settings)), "ui",
               "--host", settings.bind, "--port", str(settings.feast_port))  # fmt: skip
    environment = {**platform_environment(settings), "FEAST_USAGE": "False"}
    return ServiceProcess("feast-ui", command, f"{_local(settings, settings.feast_port)}/health", environment)


def feast_folder(settings: Settings) -> Path:
    """Where the workspace's ``feature_store.yaml`` is, once features were computed."""
    return settings.workspace / "feast"


def has_feature_store(settings: Settings) -> bool:
    """Whether there is a registry that Feast's UI can show."""
    return (feast_folder(settings) / "feature_store.yaml").exists()


def serving_service(settings: Settings) -> ServiceProcess:
    """The ranking service."""
    command = (sys.executable, "-m", "serving", "run", "--host", settings.bind)
    return ServiceProcess(
        "serving", command, f"{_local(settings, settings.serving_port)}/health", platform_environment(settings)
    )


def metrics_service(settings: Settings) -> ServiceProcess:
    """What Prometheus asks about the platform's state."""
    command = (sys.executable, "-m", "operations", "metrics")
    return ServiceProcess(
        "metrics", command, f"{_local(settings, settings.metrics_port)}/metrics", platform_environment(settings)
    )


def streaming_service(settings: Settings) -> ServiceProcess:
    """The lane between two hours."""
    command = (sys.executable, "-m", "clock", "stream", "follow")
    return ServiceProcess("streaming", command, None, platform_environment(settings))


def all_services(settings: Settings) -> list[ServiceProcess]:
    """Every service of the profile, in the order in which they may start."""
    return [
        *page_services(settings),
        *airflow_services(settings),
        serving_service(settings),
        metrics_service(settings),
        *([streaming_service(settings)] if settings.streaming else []),
    ]


def service(settings: Settings, name: str) -> ServiceProcess:
    """One service by its name; makes only that one's environment, so that it needs only its own secrets."""
    groups = {
        "airflow-": airflow_services,
        "mlflow": lambda s: [mlflow_service(s)],
        "reports": page_services,
        "feast-ui": lambda s: [feast_ui_service(s)],
        "serving": lambda s: [serving_service(s)],
        "metrics": lambda s: [metrics_service(s)],
        "streaming": lambda s: [streaming_service(s)],
    }
    for prefix, make in groups.items():
        if name.startswith(prefix):
            by_name = {s.name: s for s in make(settings)}
            if name in by_name:
                return by_name[name]
    raise ConfigError(
        f"there is no service '{name}' in the profile {settings.profile}; docker/compose.yaml has the names of all"
    )


def program(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).with_name(name))


def _local(settings: Settings, port: int) -> str:
    host = "127.0.0.1" if settings.bind in {"0.0.0.0", "::"} else settings.bind  # noqa: S104 # nosec B104
    return f"http://{host}:{port}"
