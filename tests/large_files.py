"""Files that are large in one way or another, and quickly made."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path


def black_png(path: Path, width: int, height: int) -> None:
    """A whole and valid PNG of one bit per pixel; its file is small whatever its pixels are."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 1)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def empty_file(path: Path, size: int) -> None:
    """A file of that many bytes that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
