"""Words by which a person chooses, and what those for an argument of the upscaler mean. Imports nothing heavy."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps", "rocm", "directml", "coreml", "openvino"]
TorchDevice = Literal["auto", "cpu", "cuda", "mps"]
EngineName = Literal["auto", "onnx", "torch"]
Quality = Literal["fast", "balanced", "best"]

FIDELITY: dict[str, float | None] = {"natural": None, "between": 0.5, "faithful": 1.0}
"""None: the model's own balance."""

DENOISE: dict[str, float | None] = {"auto": None, "keep": 0.0, "light": 0.5, "strong": 1.0}
"""None: as the model does by itself."""
