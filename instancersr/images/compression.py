"""How hard a file was compressed, as the file itself says."""

from __future__ import annotations

from PIL import Image

STANDARD_MEAN = 57.625
"""Of the luminance quantisation table in Annex K of the JPEG standard (ITU-T T.81), which is quality 50."""


def jpeg_quality(image: Image.Image) -> int | None:
    """The quality, 1 to 100, of a picture that Pillow opened from a JPEG, None for others.

    libjpeg scales the standard's table by 50 / quality below 50 and by 2 - quality / 50 above (`jpeg_quality_scaling`
    in its jcparam.c); the mean of the file's own table gives the scale back. Entries end at 255, so qualities under 25
    read a little too high. Of tables that are no multiple of the standard's, as cameras and image editors have, it is
    the quality that quantises as coarsely on average.
    """
    tables = getattr(image, "quantization", None)
    if not tables or 0 not in tables:
        return None
    scale = sum(tables[0]) / len(tables[0]) / STANDARD_MEAN
    return round(min(max(50 / scale if scale > 1 else 100 - 50 * scale, 1), 100))
