import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pareto_amb.diffusion.networks import create_network
from pareto_amb.errors import UserError


@pytest.mark.parametrize(
    ("name", "resolution", "label_dim", "augment_dim", "count"),
    [
        ("ddpmpp", 32, 0, 9, 55_733_891),
        ("ncsnpp", 64, 0, 9, 62_761_091),
        ("adm", 64, 200, 0, 295_284_867),
    ],
)
def test_parameter_counts_are_those_of_the_published_networks(
    name: str, resolution: int, label_dim: int, augment_dim: int, count: int
) -> None:
    with torch.device("meta"):
        network = create_network(name, resolution, 3, label_dim, augment_dim)
    assert sum(p.numel() for p in network.parameters()) == count


SMALL = {"model_channels": 16, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (4,)}
SMALL_OF = dict.fromkeys(("tiny", "ddpmpp", "ncsnpp"), SMALL) | {"adm": {**SMALL, "channels_per_head": 8}}


@pytest.mark.parametrize("name", ["tiny", "ddpmpp", "ncsnpp", "adm"])
def test_every_parameter_is_used(name: str) -> None:
    torch.manual_seed(0)
    network = create_network(name, 8, 3, label_dim=4, augment_dim=9, dropout=0.0, **SMALL_OF[name])
    for parameter in network.parameters():  # no zero-initialised layer may hide another
        torch.nn.init.normal_(parameter, std=0.1)
    told = {"labels": torch.eye(4)[[0, 2]], "augment_labels": torch.randn(2, 9)}
    out = network(torch.randn(2, 3, 8, 8), torch.tensor([0.1, 5.0]), told)
    assert out.shape == (2, 3, 8, 8)
    out.square().sum().backward()
    unused = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # A bias straight before a one-channel-a-group norm cannot matter; nothing else may be idle.
    assert not [n for n in unused if not n.endswith("conv0.bias") and "qkv.bias" not in n]


@pytest.mark.parametrize(("name", "tolerance"), [("tiny", 1e-4), ("adm", 1e-7)])
def test_an_untrained_denoiser_is_the_skip_path_alone(name: str, tolerance: float) -> None:
    torch.manual_seed(0)
    network = create_network(name, 8, 1, **SMALL_OF[name])
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.01, 0.5, 80.0])
    c_skip = 0.25 / (sigma**2 + 0.25)
    assert torch.allclose(network(x, sigma, {}), c_skip.view(-1, 1, 1, 1) * x, atol=tolerance)


@pytest.mark.parametrize(("name", "beyond"), [("tiny", 0), ("ddpmpp", 0), ("adm", 1)])
def test_noise_frequencies_fall_geometrically_to_a_ten_thousandth(name: str, beyond: int) -> None:
    frequencies = create_network(name, 8, 1, **SMALL_OF[name]).network.noise_embedding.frequencies
    half = SMALL["model_channels"] // 2
    expected = [10_000 ** (-k / (half - 1 + beyond)) for k in range(half)]
    assert frequencies.tolist() == pytest.approx(expected, rel=1e-5)


def test_ncsnpp_convolves_its_residual_input_first_and_halves_it_after() -> None:
    torch.manual_seed(0)
    network = create_network("ncsnpp", 8, 3, **SMALL).network
    (branch,) = network.residuals.values()
    convolution, image = branch[0], torch.randn(2, 3, 8, 8)
    padded = F.pad(image, (2, 2, 2, 2))  # once, by what both filters reach: nothing is padded in between
    full = F.conv2d(padded, convolution.weight, convolution.bias)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    expected = torch.zeros(2, full.shape[1], 4, 4)
    for i in range(4):
        for j in range(4):
            expected += taps[i] * taps[j] * full[:, :, i : i + 7 : 2, j : j + 7 : 2]
    assert torch.allclose(branch(image), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "ddpmpp", "ncsnpp"])
def test_first_weights_are_xavier_uniform_without_biases(name: str) -> None:
    torch.manual_seed(0)
    options = {**SMALL, "model_channels": 64}
    network = create_network(name, 8, 3, label_dim=4, augment_dim=9, **options).network
    for part, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            receptive = layer.weight[0, 0].numel()
            bound = math.sqrt(6 / (sum(layer.weight.shape[:2]) * receptive))
            closing = part.endswith(("conv1", "attention.out")) or part == "out"
            bound *= 1e-5 if closing else math.sqrt(0.2) if part.endswith("qkv") else 1
            found = layer.weight.abs().max().item()
            assert 0.95 * bound < found <= bound * (1 + 1e-6), part
            assert layer.bias is None or not layer.bias.any(), part


def test_first_weights_of_adm() -> None:
    torch.manual_seed(0)
    options = {**SMALL, "model_channels": 64, "channels_per_head": 16}
    network = create_network("adm", 8, 3, label_dim=50, augment_dim=9, **options).network
    assert network.labels.weight.std().item() == pytest.approx(1.0, abs=0.02)
    assert not network.augment.weight.any()
    for part, layer in network.named_modules():
        if part.endswith(("conv1", "attention.out")) or part == "out":
            assert not layer.weight.any(), part
            assert not layer.bias.any(), part
        elif isinstance(layer, nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5  # Kaiming uniform times the square root of a third
            assert 0.95 * bound < layer.weight.abs().max().item() <= bound, part


def test_the_architecture_rebuilds_the_network() -> None:
    network = create_network("tiny", 8, 1, label_dim=3, model_channels=8, channel_mult=[1, 1])
    again = create_network(**network.architecture)
    assert [p.shape for p in again.parameters()] == [p.shape for p in network.parameters()]


def test_the_class_changes_the_output() -> None:
    torch.manual_seed(0)
    network = create_network("tiny", 8, 1, label_dim=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, sigma = torch.randn(1, 1, 8, 8), torch.ones(1)
    first, second = (network(x, sigma, {"labels": torch.eye(2)[[k]]}) for k in (0, 1))
    assert not torch.allclose(first, second)


def test_unknown_names_options_and_resolutions_are_refused() -> None:
    with pytest.raises(UserError, match="unknown network 'unet'"):
        create_network("unet", 8, 1)
    with pytest.raises(UserError, match="no option 'chanels'"):
        create_network("tiny", 8, 1, chanels=3)
    with pytest.raises(UserError, match="divisible by 2"):
        create_network("tiny", 7, 1)
