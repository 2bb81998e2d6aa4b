"""Secrets: one file each in a folder, as container platforms mount them. None has a default.

In the embedded profile a workspace creates its own; in production ``make secrets`` creates them once and a
missing one is an error.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from core.errors import ConfigError
from core.files import exclusive_lock, write_atomically

PRIVATE = 0o600


def _token() -> str:
    return secrets.token_hex(32)


def _fernet() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


SECRETS: dict[str, Callable[[], str]] = {
    "postgres_admin": _token,
    "airflow_db": _token,
    "mlflow_db": _token,
    "mlflow_auth_db": _token,
    "feast_db": _token,
    "redis": _token,
    "airflow_fernet": _fernet,
    "airflow_api": _token,
    "airflow_jwt": _token,
    "airflow_admin": _token,
    "mlflow_flask": _token,
    "mlflow_admin": _token,
    "mlflow_service": _token,
    "serving_key": _token,
    "object_store_key": lambda: secrets.token_hex(10),
    "object_store_secret": _token,
    "grafana_admin": _token,
}
"""Name → function that creates it. ``docker/README.md`` says what each is for."""


def make_secrets(folder: Path, names: tuple[str, ...] = tuple(SECRETS)) -> list[str]:
    """Create the secrets that are missing in a folder, readable by their owner only.

    Args:
        folder: created if it is missing.
        names: secrets to look at.

    Returns:
        Names of the secrets that were created.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    created = []
    with exclusive_lock(folder / ".lock"):
        for name in names:
            path = folder / name
            if not path.exists():
                value = SECRETS[name]()
                write_atomically(path, lambda target, v=value: target.write_text(f"{v}\n"), mode=PRIVATE)  # type: ignore[misc]
                created.append(name)
    return created


def read_secret(folder: Path, name: str) -> str:
    """The content of a secret's file.

    Raises:
        ConfigError: the file is missing, unreadable or empty.
    """
    path = folder / name
    try:
        value = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            f"the secret {path} cannot be read ({error.strerror}); 'make secrets' makes those that are missing"
        ) from None
    if not value:
        raise ConfigError(f"the secret {path} is empty; remove it and run 'make secrets'")
    return value
