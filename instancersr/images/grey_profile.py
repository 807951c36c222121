"""A grey file needs a grey colour profile: one with the tone curve of the colour profile its pixels are in."""

from __future__ import annotations

import struct

_HEADER = 128


def is_for_grey(profile: bytes | None) -> bool:
    """Whether it is a profile, and one for grey pixels."""
    return profile is not None and profile[16:20] == b"GRAY"


def grey_profile(profile: bytes) -> bytes | None:
    """A grey ICC profile with the white point and the red tone curve of an RGB one, which is true of equal channels.

    The layout is that of ICC.1:2010, section 7: a header, a table of tags, and their data at multiples of four.

    Returns:
        None where the profile has no tone curve, as one made of tables, or is damaged.
    """
    try:
        tags = _tags(profile)
        entries = {b"desc": tags[b"desc"], b"cprt": tags[b"cprt"], b"wtpt": tags[b"wtpt"], b"kTRC": tags[b"rTRC"]}
    except (KeyError, struct.error):
        return None
    table, data = struct.pack(">I", len(entries)), b""
    begin = _HEADER + 4 + 12 * len(entries)
    for name, content in entries.items():
        table += struct.pack(">4sII", name, begin + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    header = bytearray(profile[:_HEADER])
    struct.pack_into(">I", header, 0, begin + len(data))
    header[16:20] = b"GRAY"
    header[84:100] = bytes(16)  # a checksum of the old profile
    return bytes(header) + table + data


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, _HEADER)
    found = {}
    for number in range(min(count, 200)):
        name, start, size = struct.unpack_from(">4sII", profile, _HEADER + 4 + 12 * number)
        found[name] = profile[start : start + size]
    return found
