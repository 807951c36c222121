"""Pages that no camera took: rendered text, forms, screens and line art, as truths for what people photograph and scan.

Photos of print are rare among photos, and a network that never saw letters draws fur into them. A page is drawn at
twice its size and shrunk, with fonts that matplotlib ships. It has no instance masks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instancersr.errors import MissingPackage
from instancersr.files import whole_file

TEXT = ("the of and a to in is you that it he was for on are as with his they at be this have from or one had by word "
        "but not what all were we when your can said there use an each which she do how their if will up other about "
        "out many then them these so some her would make like him into time has look two more write go see number no "
        "way could people my than first water been call who oil its now find long down day did get come made may part "
        "Menu File Edit View Help Open Save Total Price Date Name Street Invoice Receipt Monday April 2024 1987 12:30 "
        "Straße über größer année été mañana niño Ελλάδα Россия")
WORDS = TEXT.split()
SIDE = 768
"""Of a page, in pixels."""


def fonts() -> list[Path]:
    """The text fonts that matplotlib ships. Raises MissingPackage."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingPackage(error, "eval") from error

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(p for p in folder.glob("*.ttf") if p.stem.startswith(("DejaVu", "STIXGeneral")))


def draw_page(rng: np.random.Generator, faces: list[Path], side: int = SIDE) -> Image.Image:
    """One page: (side, side) RGB."""
    large = 2 * side
    dark = rng.random() < 0.25
    paper, ink = _colors(rng, dark)
    page = Image.new("RGB", (large, large), paper)
    draw = ImageDraw.Draw(page)
    y = int(rng.integers(10, 80))
    while y < large:
        kind = rng.choice(["text", "heading", "panel", "lines", "shapes"], p=[0.5, 0.15, 0.15, 0.1, 0.1])
        y += _DRAWERS[kind](draw, y, large, ink, faces, rng) + int(rng.integers(8, 50))
    return page.resize((side, side), Image.Resampling.LANCZOS)


def _colors(rng: np.random.Generator, dark: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    light = np.clip(rng.normal(245, 12, 3), 200, 255)
    deep = np.clip(rng.normal(25, 25, 3), 0, 90)
    paper, ink = (deep, light) if dark else (light, deep)
    if rng.random() < 0.4:
        paper, ink = np.full(3, paper.mean()), np.full(3, ink.mean())
    return tuple(int(v) for v in paper), tuple(int(v) for v in ink)


def _random_color(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(v) for v in rng.integers(0, 256, 3))


def _font(faces: list[Path], rng: np.random.Generator, low: int, high: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(faces[rng.integers(len(faces))]), int(rng.integers(low, high)))


def _sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words))


def _text(draw, y, width, ink, faces, rng) -> int:
    font, height = _font(faces, rng, 18, 70), 0
    left, columns = int(rng.integers(0, 120)), int(rng.integers(4, 16))
    for _ in range(int(rng.integers(2, 9))):
        draw.text((left, y + height), _sentence(rng, columns), ink, font)
        height += int(font.size * 1.3)
    return height


def _heading(draw, y, width, ink, faces, rng) -> int:
    font = _font(faces, rng, 70, 240)
    color = _random_color(rng) if rng.random() < 0.5 else ink
    outline = int(rng.integers(2, 8)) if rng.random() < 0.3 else 0
    draw.text((int(rng.integers(0, 200)), y), _sentence(rng, 4).upper() if rng.random() < 0.5 else _sentence(rng, 4),
              color, font, stroke_width=outline, stroke_fill=_random_color(rng))
    return int(font.size * 1.2)


def _panel(draw, y, width, ink, faces, rng) -> int:
    """Boxes in a row with a word in each, as buttons and tables have."""
    height, x = int(rng.integers(50, 180)), int(rng.integers(0, 60))
    fill = _random_color(rng) if rng.random() < 0.5 else None
    while x < width:
        wide = int(rng.integers(100, 400))
        radius = int(rng.integers(0, 24))
        draw.rounded_rectangle((x, y, x + wide, y + height), radius, fill, ink, int(rng.integers(1, 6)))
        draw.text((x + 16, y + 12), _sentence(rng, 2), ink, _font(faces, rng, 20, 48))
        x += wide + int(rng.integers(0, 40))
    return height


def _lines(draw, y, width, ink, faces, rng) -> int:
    height = int(rng.integers(100, 300))
    for _ in range(int(rng.integers(5, 30))):
        ends = [(int(rng.integers(width)), y + int(rng.integers(height))) for _ in range(int(rng.integers(2, 5)))]
        draw.line(ends, ink, int(rng.integers(1, 9)), joint="curve")
    return height


def _shapes(draw, y, width, ink, faces, rng) -> int:
    height = int(rng.integers(150, 400))
    for _ in range(int(rng.integers(4, 20))):
        x, top, size = int(rng.integers(width)), y + int(rng.integers(height)), int(rng.integers(10, 160))
        fill = _random_color(rng) if rng.random() < 0.4 else None
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, top, x + size, top + size), fill, ink, int(rng.integers(1, 7)))
    return height


_DRAWERS = {"text": _text, "heading": _heading, "panel": _panel, "lines": _lines, "shapes": _shapes}


def write_pages(folder: Path, count: int, seed: int = 0) -> None:
    """`page_NNNNNN.png` in `folder`, the same for the same seed; those that are there are not drawn again."""
    folder.mkdir(parents=True, exist_ok=True)
    faces = fonts()
    for number in range(count):
        file = folder / f"page_{number:06}.png"
        if not file.exists():
            with whole_file(file) as opened:
                draw_page(np.random.default_rng((seed, number)), faces).save(opened, "PNG")
