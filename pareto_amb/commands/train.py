"""`train`: the production training that a recommendation stands for."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pareto_amb.commands.options import Overrides, must_exist
from pareto_amb.errors import print_error
from pareto_amb.signals import continued_by


def train(
    recommendation: Annotated[Path, typer.Argument(metavar="RECOMMENDATION.yaml")],
    train_size: Annotated[
        int | None, typer.Option(help="Which recommendation to follow, where the file has several.")
    ] = None,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="Default: the folder training beside the recommendation.")
    ] = None,
) -> None:
    """Train a model as recommended, up to the recommended stopping point; run it again to continue.

    Keys for --set are those of the file's training block, e.g. training.images=10000000,
    data.path=/my/images, parameters.sigma_tn=0.3 or train_size=null for the whole set.

    On several GPUs: torchrun --nproc-per-node 4 -m pareto_amb train RECOMMENDATION.yaml
    """
    must_exist(recommendation)
    from pareto_amb.config_file import apply_overrides
    from pareto_amb.diffusion.parallel import join_world
    from pareto_amb.production import CHECKPOINT, train_model
    from pareto_amb.results.recommendation_file import load_entry, training_block, why_it_stops
    from pareto_amb.sweep_file import parse_training
    from pareto_amb.terminal import make_console

    folder = output or recommendation.parent / "training"

    def same_command() -> str:
        return shlex.join(["pareto-amb", *sys.argv[1:]]) if (folder / CHECKPOINT).is_file() else ""

    with continued_by(same_command), join_world(print_error) as world:
        with world.together():
            entry = load_entry(recommendation, train_size)
            block: dict[str, Any] = training_block(entry, recommendation)
            run = parse_training(apply_overrides(block, overrides or []), str(recommendation))
        console = make_console(quiet=not world.is_first)
        images = run.training.images
        why = why_it_stops(entry, images)
        console.print(f"stops after {images:,} images, {why}", markup=False, soft_wrap=True)
        checkpoint = train_model(run, folder, console, world)
        console.print(f"next:\n  {_next(recommendation.parent, checkpoint)}", markup=False, soft_wrap=True)


def _next(run: Path, checkpoint: Path) -> str:
    """What to do with a trained model: check it against the images of its run, where it lies in one."""
    if (run / "sweep.yaml").is_file():
        return shlex.join(["pareto-amb", "evaluate", "--run", str(run), "--checkpoint", str(checkpoint)])
    return shlex.join(["pareto-amb", "sample", str(checkpoint)])
