"""Options and arguments that several commands have."""

from __future__ import annotations

from collections.abc import Callable

import typer


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
