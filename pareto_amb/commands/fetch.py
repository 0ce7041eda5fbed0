"""`weights fetch`: the weights of encoders, and of the models that a search space is made with."""

from typing import TYPE_CHECKING, Annotated

import typer

from pareto_amb.commands.options import Overrides, complete_encoder, complete_space
from pareto_amb.errors import UserError

if TYPE_CHECKING:
    from pareto_amb.config import SweepConfig


def _complete(incomplete: str) -> list[str]:
    return [*complete_encoder(incomplete), *complete_space(incomplete)]


def fetch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ENCODER|SPACE|FILE.yaml",
            help="An encoder, or a search space, all of whose weights are fetched.",
            autocompletion=_complete,
        ),
    ],
    overrides: Overrides = None,
) -> None:
    """Fetch weights before they are needed, for a machine that will have no network, say.

    They go to the caches of huggingface_hub and torch.hub, and are compared with the published checksum. On a
    machine without a network put the files into a folder, and set PARETO_AMB_WEIGHTS to it.
    """
    from pareto_amb import search_spaces, weights
    from pareto_amb.config import SweepConfig, nearest
    from pareto_amb.config_file import apply_overrides, parse
    from pareto_amb.needs import encoders_of, models_of

    config, encoders = None, [name]
    if name not in weights.PUBLISHED:
        if name not in search_spaces.names() and not name.endswith((".yaml", ".yml")):
            hint = nearest(name, [*weights.PUBLISHED, *search_spaces.names()])
            raise UserError(f"no encoder or search space is called '{name}': {hint}")
        config = parse(SweepConfig, apply_overrides(search_spaces.load(name), overrides or []), name)
        encoders = encoders_of(config)
    for each in encoders:
        path = weights.fetch(each)
        weights.check_published(each, path)
        print(f"{each}: {path}")
    if config is not None and models_of(config):
        _fetch_models(config)


def _fetch_models(config: "SweepConfig") -> None:
    """The pretrained models that a sweep is made with, read once they are there."""
    from pareto_amb.diffusion.text.build import make_text_model
    from pareto_amb.evaluation.judges import load_clip
    from pareto_amb.needs import model_folder, models_of

    make_text_model(config, ())
    if config.evaluation.judge == "clip":
        load_clip(config.evaluation.clip_model, "evaluation.clip_model")
    for key, path in models_of(config).items():
        print(f"{key}: {model_folder(key, path)}")
