"""The recipes that the paper publishes, cell by cell, and that every space is whole."""

from dataclasses import dataclass

import pytest
import torch

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.diffusion.networks import create_network
from pareto_amb.sweep_file import parse_sweep


@dataclass(frozen=True)
class Recipe:
    """What the paper says of one data set; `parameters` are KAAL22's, without the augmentation input."""

    sizes: tuple[int, ...]
    network: str
    parameters: int
    resolution: int
    steps: int
    batch_size: int
    iterations: int
    thresholds: tuple[float, ...]
    conditional: bool = False


FFHQ = ("ncsnpp", 62_758_787, 64, 40, 256, 30_000, (0.85, 0.875, 0.9))
PUBLISHED = {
    "cifar10": Recipe((300, 1000, 3000), "ddpmpp", 55_732_739, 32, 18, 256, 30_000, (0.9, 0.925, 0.95)),
    "ffhq": Recipe((300, 1000, 3000), *FFHQ),
    "ffhq300": Recipe((300,), *FFHQ),
    "tiny-imagenet": Recipe(
        (1000, 3000), "adm", 295_284_867, 64, 40, 512, 80_000, (0.9, 0.925, 0.95), conditional=True
    ),
}


def load(name: str) -> SweepConfig:
    return parse_sweep(search_spaces.load(name), name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_follows_the_paper(name: str):
    config, published = load(name), PUBLISHED[name]
    training = config.training
    assert config.space.train_size == published.sizes
    assert training.network.name == published.network
    assert (config.data.resolution, config.data.channels) == (published.resolution, 3)
    assert config.data.conditional == published.conditional
    assert (config.sampling.steps, config.sampling.sigma_max, config.sampling.rho) == (published.steps, 80, 7)
    assert training.batch_size == published.batch_size
    assert training.images == published.iterations * published.batch_size
    assert (training.learning_rate, training.betas, training.eps) == (1e-4, (0.9, 0.999), 1e-8)
    assert (training.weight_decay, training.lr_warmup_images) == (0.01, 0)
    assert config.evaluation.thresholds == published.thresholds
    assert config.evaluation.fid_encoder == "inception_v3"
    assert config.evaluation.similarity_encoder == "dinov2_vitg14"
    assert config.evaluation.preprocessing == "paper"
    assert config.evaluation.reference == "full"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_network_of_the_paper(name: str):
    config, published = load(name), PUBLISHED[name]
    network = config.training.network
    with torch.device("meta"):
        denoiser = create_network(
            network.name,
            config.data.resolution,
            config.data.channels,
            200 if config.data.conditional else 0,
            **network.options,
        )
    assert sum(p.numel() for p in denoiser.parameters()) == published.parameters


@pytest.mark.parametrize("name", search_spaces.names())
def test_every_space_is_whole_and_named_as_its_file(name: str):
    config = load(name)
    assert config.name == name
    assert config.description
    if config.data.path is not None:
        assert config.data.origin


def test_the_folder_space_calibrates_on_the_images_it_is_given():
    config = load("folder")
    assert config.data.path is None
    assert config.evaluation.thresholds is None
    assert config.evaluation.similarity_encoder == "dinov2_vitb14"
    assert config.training.horizontal_flip
