"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import tomllib

import pytest

from core.settings import ROOT

PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


def test_what_figures_are_computed_with_has_examples() -> None:
    assert {"core.hours", "evaluation.metrics", "stats.assignment", "stats.circle", "stats.sequential"} <= set(MODULES)
