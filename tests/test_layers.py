"""Imports go one way: the contracts of pyproject.toml, lazy imports counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lint(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_imports_keep_the_contracts() -> None:
    done = lint()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def test_every_package_is_under_the_contracts() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests", "docs"}
    contracts = text[text.index("[tool.importlinter]") :]
    wheel = text[text.index("[tool.hatch.build.targets.wheel]") : text.index("[tool.ruff]")]
    assert all(
        contracts.count(f'"{name}"') + contracts.count(f"{name} |") + contracts.count(f"| {name}") >= 3
        for name in packages
    )
    assert all(f'"{name}"' in wheel for name in packages)


def test_an_import_that_goes_upward_is_found(tmp_path: Path) -> None:
    for name, text in {"low": "import high.a", "high": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "a.py").write_text(f"def f():\n    {text or 'pass'}\n")
    (tmp_path / "setup.cfg").write_text(
        "[importlinter]\nroot_packages =\n    low\n    high\n[importlinter:contract:1]\nname = x\ntype = layers\n"
        "layers =\n    high\n    low\n"
    )
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "low is not allowed to import high" in done.stdout
