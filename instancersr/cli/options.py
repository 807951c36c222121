"""Options and arguments that several commands have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import typer


def path(text: str) -> Path:
    """A path that was written; an empty one, which a script's unset variable gives, would be the current folder.

    The help shows this function's name as the kind of value.
    """
    if not text:
        raise typer.BadParameter("the path is empty; use . for this folder")
    return Path(text)


def a_number(value: float | None) -> float | None:
    """A value that is in its range: click's comparison lets NaN pass."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is not a number")
    return value


def split_number(text: str, allowed: Callable[[float], bool], expected: str, option: str) -> tuple[str, float]:
    """What an argument NAME=NUMBER says; `expected` is the rest of "is not ..." where it is none or not allowed."""
    name, _, value = text.rpartition("=")
    try:
        number = float(value)
        if not (name and allowed(number)):
            raise ValueError
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not {expected}", param_hint=option) from None
    return name, number
