"""PNG files from scratch: Pillow writes no 16-bit RGB, and a huge header needs no pixels."""

import struct
import zlib


def png(width: int, height: int, bits: int, color_type: int, data: bytes,
        extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """A PNG of one IDAT: `data` are its rows, each with its filter's byte; `extra` chunks stand before them."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    chunks = ((b"IHDR", header), *extra, (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)
