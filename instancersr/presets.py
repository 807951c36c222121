"""What "quality" and "fidelity" mean where a person chooses by a word: arguments of the pipeline's call."""

from __future__ import annotations

from typing import Any

QUALITY: dict[str, dict[str, Any]] = {"fast": {"overlap": 8}, "balanced": {}, "best": {"overlap": 32}}
"""The shipped model is made for a single step, so what can be saved or spent is the tiles' overlap. It changes little
(`benchmarks/presets.py`): half of it saves time only where a row of tiles less will do."""

FIDELITY: dict[str, float | None] = {"natural": None, "between": 0.5, "faithful": 1.0}
"""None: the model's own balance."""
