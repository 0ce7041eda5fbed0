"""pareto-amb: the noise level above which a diffusion model should see only noisy images.

    import pareto_amb

    run = pareto_amb.sweep("digits")             # or pareto_amb.load_run("runs/digits-...")
    run.size(100).frontier
    pareto_amb.recommend(run, "knee")
    pareto_amb.evaluate(generated, train, heldout)
    pareto_amb.scan("photos.zip", [500])

Names are imported when they are first used: `import pareto_amb` itself is quick.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pareto_amb.declared import Objective, Parameter
    from pareto_amb.diffusion.methods import Method
    from pareto_amb.errors import UserError
    from pareto_amb.interface import evaluate, load_run, recommend, scan, sweep

for _name in ("MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "true")

__all__ = [
    "Method", "Objective", "Parameter", "UserError", "evaluate", "load_run", "recommend", "scan", "sweep",
]  # fmt: skip

_HOME = {
    "Method": "diffusion.methods",
    "Objective": "declared",
    "Parameter": "declared",
    "UserError": "errors",
    **dict.fromkeys(("evaluate", "load_run", "recommend", "scan", "sweep"), "interface"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pareto_amb' has no attribute '{name}'")
    found = getattr(import_module(f"pareto_amb.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
