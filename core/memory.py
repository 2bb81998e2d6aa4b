"""The memory of this process."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Give the system back what was freed, after work that needed much for a while; does nothing where the C library has no way.

    glibc keeps freed blocks for the process, so that a peak of many blocks stays visible as the process's memory ever after.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
