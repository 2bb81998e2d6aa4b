"""Feast without the type checks that it has typeguard write into its functions: to compile them again is half of its import.

As a program (``python -m feature_repo.feast_import``) it is Feast's command line, started in a little more than half the time.

typeguard means them for development and leaves them out under ``python -O``, which would take our own asserts, too. Ours is
checked by mypy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def import_feast() -> None:
    """Import Feast, where no one has imported it yet."""
    import typeguard

    typechecked = typeguard.typechecked
    typeguard.typechecked = _as_written
    try:
        import feast  # noqa: F401
    finally:
        typeguard.typechecked = typechecked


def _as_written(target: Any = None, **_: object) -> Any:
    """As ``typeguard.typechecked``, with and without arguments, but for the checks."""
    return _unchanged if target is None else target


def _unchanged(target: Callable[..., Any]) -> Callable[..., Any]:
    return target


if __name__ == "__main__":
    import_feast()
    from feast.cli.cli import cli

    cli(prog_name="feast")
