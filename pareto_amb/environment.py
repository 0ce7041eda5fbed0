"""What a run ran on: versions, hardware, revision."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("pareto-amb", "torch", "torchvision", "timm", "ray", "optuna", "mlflow", "numpy")


def describe_environment() -> dict[str, Any]:
    """Versions, hardware and git revision of this process, ready for JSON."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "versions": {name: version(name) for name in PACKAGES},
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """The revision of the source tree this package is imported from, None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
