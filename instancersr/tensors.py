"""The tensors of a network's safetensors files: where each lies, and its numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import ModelError

TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1"}
"""Of safetensors -> of numpy, which has no bfloat16, the upper half of a float32, and no numbers of 8 bits."""


def _eight_bits() -> np.ndarray:
    """The number that each byte means in float8 E4M3 (Micikevicius et al., 2022, arXiv:2209.05433): a sign, an exponent
    of 4 bits, a mantissa of 3."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, (code & 7) / 8
    size = np.where(exponent, np.ldexp(1 + mantissa, exponent - 7), np.ldexp(mantissa, -6))
    return np.where(code & 127 == 127, np.nan, np.where(code & 128, -size, size)).astype(np.float32)


EIGHT_BITS = _eight_bits()


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: where, in bytes, and of which type and shape."""

    file: Path
    offset: int
    length: int
    dtype: str
    shape: list[int]

    def read(self) -> np.ndarray:
        """The numbers, as float32."""
        raw = np.fromfile(self.file, np.uint8, self.length, offset=self.offset).view(TYPES[self.dtype])
        if self.dtype == "BF16":
            numbers = (raw.astype("<u4") << 16).view("<f4")
        else:
            numbers = EIGHT_BITS[raw] if self.dtype == "F8_E4M3" else raw.astype(np.float32)
        return numbers.reshape(self.shape)

    def pack(self, numbers: np.ndarray) -> np.ndarray:
        """Other numbers, float32, rounded to this tensor's type; bfloat16 as uint16.

        Raises:
            ModelError: the type has 8 bits.
        """
        if self.dtype == "F8_E4M3":
            raise ModelError(f"{self.file}: weights of 8 bits cannot be mixed; store this part in half precision")
        if self.dtype == "BF16":
            bits = np.ascontiguousarray(numbers, "<f4").view("<u4")
            return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # to the nearest, ties to even
        return np.ascontiguousarray(numbers, TYPES[self.dtype])


def same_shapes(ours: dict[str, Stored], theirs: dict[str, Stored]) -> bool:
    """Whether both networks have the same tensors, so that their weights can be mixed."""
    return {name: each.shape for name, each in ours.items()} == {name: each.shape for name, each in theirs.items()}


def stored_tensors(network: Path) -> dict[str, Stored]:
    """Name -> where it lies, for every tensor in the folder of a network."""
    found = {}
    for file in sorted(network.glob("*.safetensors")):
        with open(file, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = Stored(file, 8 + size + begin, end - begin, entry["dtype"], entry["shape"])
    return found
