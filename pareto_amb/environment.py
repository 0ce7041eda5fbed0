"""What a run ran on and by which command: versions, hardware, revision."""

import os
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pareto_amb.redaction import redact

PACKAGES = ("pareto-amb", "torch", "torchvision", "timm", "ray", "optuna", "mlflow", "numpy")


def describe_environment(devices: bool = True) -> dict[str, Any]:
    """Command, versions, hardware and git revision of this process, ready for JSON.

    Its GPUs are left out where no `devices` are asked for, and PyTorch is not imported.
    """
    return {
        "command": _command(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        **({"gpus": _gpus()} if devices else {}),
        "versions": {name: version(name) for name in PACKAGES},
        "git_revision": _git_revision(),
    }


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _command() -> str | None:
    """The command line of this process without secrets, None where another program called.

    Of the address of a server nothing is kept but its host: what follows may be a secret of its own.
    """
    program, arguments = Path(sys.argv[0]), sys.argv[1:]
    if program.stem != "pareto-amb" and program.parts[-2:] != ("pareto_amb", "__main__.py"):
        return None
    told = [re.sub(r"(https?://[^/\s]+/).+", r"\1***", redact(argument)) for argument in arguments]
    return shlex.join(["pareto-amb", *told])


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
