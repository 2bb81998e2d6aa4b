"""First start of the production profile: databases and roles, tables, logins. Running it again changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

from core.errors import NotReadyError
from core.settings import DATABASES, Settings
from operations.airflow_api import ADMIN
from operations.processes import wait_for
from operations.services import migrate_airflow
from operations.users import ensure_roles, ensure_service_user, ensure_user, mlflow_logins

log = logging.getLogger("operations.init")

WAIT_SECONDS = 120


def initialize(settings: Settings) -> None:
    """Prepare everything that the services need.

    Raises:
        NotReadyError: PostgreSQL, Redis or the object store did not answer in time.
        ConfigError: the profile is not production, or a secret is missing.
    """
    steps: list[tuple[str, Callable[[Settings], None]]] = [
        ("databases and their roles in PostgreSQL", make_databases),
        ("the bucket in the object store", make_bucket),
        ("Airflow's tables", migrate_airflow),
        ("MLflow's tables", migrate_mlflow),
        ("roles and logins", make_logins),
    ]
    for number, (what, step) in enumerate(steps, 1):
        log.info("%d/%d %s", number, len(steps), what)
        step(settings)


def make_databases(settings: Settings) -> None:
    """A database for each use, owned by a role of the same name with its own password."""
    import psycopg
    from psycopg import sql

    url = f"postgresql://postgres:{settings.secret('postgres_admin')}@{settings.postgres}/postgres"
    reason = ""

    def connects() -> bool:
        nonlocal reason
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[-1]
            if "authentication failed" in reason:
                raise NotReadyError(f"PostgreSQL at {settings.postgres} refuses the secret postgres_admin") from None
            return False
        return True

    wait_for(connects, f"PostgreSQL at {settings.postgres} to answer", WAIT_SECONDS)
    with psycopg.connect(url, autocommit=True) as connection:
        for name in DATABASES:
            role, database = sql.Identifier(name), sql.Identifier(name)
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
            password = sql.Literal(settings.secret(f"{name}_db"))
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, password))  # a secret may be renewed
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))


def object_store(settings: Settings) -> object:
    """An S3 client of the platform's object store."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3", endpoint_url=settings.object_store, region_name="us-east-1",
        aws_access_key_id=settings.secret("object_store_key"),
        aws_secret_access_key=settings.secret("object_store_secret"),
        config=Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 2}),
    )  # fmt: skip


def make_bucket(settings: Settings) -> None:
    """Make the platform's bucket in the object store unless it exists."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = object_store(settings)

    def bucket_exists() -> bool:
        try:
            names = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}  # type: ignore[attr-defined]
            if settings.object_bucket not in names:
                client.create_bucket(Bucket=settings.object_bucket)  # type: ignore[attr-defined]
        except (BotoCoreError, ClientError):
            return False
        return True

    wait_for(bucket_exists, f"the object store at {settings.object_store} to answer", WAIT_SECONDS)


def migrate_mlflow(settings: Settings) -> None:
    """Create or upgrade the tracking tables and those of MLflow's logins: once, before any server opens them."""
    from mlflow.db import upgrade
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    uri = settings.postgres_url("mlflow")
    try:
        SqlAlchemyStore(uri, "mlflow-artifacts:/")
    except MlflowException:  # tables of an older MLflow
        upgrade.callback(uri)  # type: ignore[misc]
    mlflow_logins(settings)


def make_logins(settings: Settings) -> None:
    """The administrator in both, the platform's own login in MLflow; passwords follow the secrets."""
    ensure_roles(settings)
    ensure_user(
        settings, ADMIN, "admin", settings.secret("airflow_admin"), mlflow_password=settings.secret("mlflow_admin")
    )
    ensure_service_user(settings)
