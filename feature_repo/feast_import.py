"""Feast without the type checks that it has typeguard write into its functions: to compile them again is half of its import.

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
