"""What "quality" and "fidelity" mean where a person chooses by a word: arguments of the pipeline's call."""

from __future__ import annotations

from typing import Any

QUALITY: dict[str, dict[str, Any]] = {
    "fast": {},
    "balanced": {},
    "best": {},
}

FIDELITY: dict[str, float | None] = {"natural": None, "between": 0.5, "faithful": 1.0}
"""None: the model's own balance."""
