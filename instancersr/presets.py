"""What "fidelity" means where a person chooses by a word: a value of the upscaler's argument."""

FIDELITY: dict[str, float | None] = {"natural": None, "between": 0.5, "faithful": 1.0}
"""None: the model's own balance."""
