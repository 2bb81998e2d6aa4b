"""Packs content as people pack logs and tables."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable


def archive(*members: tuple[str, bytes], flags: int = 0) -> bytes:
    """A ZIP archive; ``flags`` are set in every member's heads, as of one that a password opens."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    packed = bytearray(target.getvalue())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(magic) + place] |= flags
    return bytes(packed)


def zipped(content: bytes, name: str = "log.csv") -> bytes:
    return archive(("__MACOSX/._" + name, b"\0"), (f"data/{name}", content), ("data/.DS_Store", b"\0"))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".gzip": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": zipped,
}  # fmt: skip
