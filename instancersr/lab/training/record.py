"""`run.json`: with what a run was made, so that it can be made again."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

from instancersr.files import write_whole
from instancersr.installation import installed_version

from .config import TrainConfig
from .processes import Processes

PACKAGES = ("instancersr", "torch", "diffusers", "transformers", "accelerate", "numpy", "pillow", "safetensors",
            "pyiqa")


def record_start(config: TrainConfig, processes: Processes, images: int) -> None:
    """Adds this start to `run.json` in the run's folder: a run that was stopped has several.

    Each has the time, the images seen before, the whole configuration with its seed, the revision of the code and
    whether it was changed, the versions of the packages, and the machine.
    """
    path = config.output / "run.json"
    starts = json.loads(path.read_text())["starts"] if path.exists() else []
    starts.append({
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "images": images,
        "config": config.model_dump(mode="json"),
        "code": revision(),
        "packages": {name: found for name in PACKAGES if (found := installed_version(name))},
        "machine": {"processes": processes.count, "device": _device_name(processes.device),
                    "python": platform.python_version(), "system": platform.platform()},
    })
    write_whole(path, json.dumps({"starts": starts}, indent=1) + "\n")


def revision() -> dict[str, str | bool] | None:
    """Git commit of this code and whether files differ from it; None where it does not lie in its repository."""
    file = Path(__file__)

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(file.parent), *words], check=True, capture_output=True,
                              text=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # an installed copy may lie inside somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
