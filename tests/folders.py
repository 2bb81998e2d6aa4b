"""Where a run of the tests keeps its files."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 6 << 30
"""Room that a run needs for its files."""
MEMORY_BYTES = 12 << 30
"""Memory that must be free, for the files and everything else."""
PREFIX = "clock-tests"


def temporary_root() -> Path:
    """Make a folder for a run; what runs that have ended left behind is removed.

    In memory where there is room. A file system without a journal, as virtual machines have it, looks through what was lately
    removed for each new file: soon after a large folder was removed, that was a third of the CPU time of some tests.
    """
    parent = IN_MEMORY if _has_room(IN_MEMORY) else Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}-*-*"):
        pid = left.name.split("-")[2]
        with suppress(FileNotFoundError):  # another run that begins now removes it as well
            if left.stat().st_uid == os.getuid() and pid.isdecimal() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-", dir=parent))


def _has_room(folder: Path) -> bool:
    return (
        folder.is_dir()
        and os.access(folder, os.W_OK | os.X_OK)
        and shutil.disk_usage(folder).free >= ROOM_BYTES
        and psutil.virtual_memory().available >= MEMORY_BYTES
    )
