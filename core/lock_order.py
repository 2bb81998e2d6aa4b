"""The order in which a process takes the locks of a workspace, so that no two processes wait for each other for ever.

Who holds a lock may take those that come later, and none that comes earlier. Of locks of one kind, the path that sorts first
comes first. The tests watch every lock that they take (``tests.lock_order``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LOCK_ORDER = (
    ".forgetting.lock",
    ".experiments.lock",
    "streaming/.step.lock",
    "streaming/.events.lock",
    ".events.lock",
    "experiment_days/*/.lock",
    "training/states/.*.lock",
    "training/.samples.lock",
    "features/.lock",
    "features/recent/.lock",
    "feast/.lock",
    "registry/moves.lock",
    "mlflow/.lock",
)
"""Locks that writers take in turns: files, or patterns of files, below the workspace."""
LANE_LOCK = "streaming/.lock"
"""Held by a lane for as long as it runs; nobody waits for it."""
LANDING_LOCK = ".landing.lock"
"""Held by whoever writes a stream to log files, likewise."""


def lock_files(workspace: Path) -> Iterator[Path]:
    """The locks of a workspace, in their order; a file need not exist yet where its folder does.

    Files of a pattern are looked for when their turn comes.
    """
    for pattern in LOCK_ORDER:
        if "*" in pattern:
            yield from sorted(workspace.glob(pattern))
        elif (workspace / pattern).parent.is_dir():
            yield workspace / pattern
