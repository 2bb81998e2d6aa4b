"""Memory that was freed goes back to the system."""

from __future__ import annotations

import sys

import psutil
import pytest

from core.memory import return_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps what is freed")
def test_what_was_freed_between_blocks_that_stay_goes_back() -> None:
    process = psutil.Process()
    blocks = [bytearray(60_000) for _ in range(3_000)]  # too small for glibc to map each by itself
    filled = process.memory_info().rss
    kept = blocks[::30]
    del blocks
    return_freed_memory()
    assert filled - process.memory_info().rss > 100_000_000
    assert len(kept) == 100
