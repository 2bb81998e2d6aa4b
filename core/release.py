"""Which version of the platform this is."""

from __future__ import annotations

from pathlib import Path


def platform_version() -> str:
    """The installed package's version, or that in ``pyproject.toml`` if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("interest-clock")
    except PackageNotFoundError:
        import tomllib

        text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
        return str(tomllib.loads(text)["project"]["version"])
