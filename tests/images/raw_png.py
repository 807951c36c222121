"""PNG files from scratch: Pillow writes no 16-bit RGB, and a huge header needs no pixels."""

import struct
import zlib


def png(width: int, height: int, bits: int, color_type: int, data: bytes) -> bytes:
    """A PNG of one IDAT: `data` are its rows, each with its filter's byte."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
