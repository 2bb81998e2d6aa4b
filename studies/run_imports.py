"""What processes that do runs import, done once in the process that they are forked from."""

from __future__ import annotations

import importlib

from core.forks import imports_for_forks

with imports_for_forks():
    for name in ("torch", "studies.lab", "studies.replay"):
        importlib.import_module(name)
