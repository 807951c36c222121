"""What words mean where a person chooses by a word: values of the upscaler's arguments."""

FIDELITY: dict[str, float | None] = {"natural": None, "between": 0.5, "faithful": 1.0}
"""None: the model's own balance."""

DENOISE: dict[str, float | None] = {"auto": None, "keep": 0.0, "light": 1 / 3, "strong": 1.0}
"""None: as the model does by itself."""
