import pytest
import torch

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


@pytest.mark.parametrize("name", ["tiny", "ddpmpp", "ncsnpp", "adm"])
def test_every_parameter_is_used(name: str) -> None:
    torch.manual_seed(0)
    options = SMALL | ({"channels_per_head": 8} if name == "adm" else {})
    network = create_network(name, 8, 3, label_dim=4, augment_dim=9, dropout=0.0, **options)
    for parameter in network.parameters():  # no zero-initialised layer may hide another
        torch.nn.init.normal_(parameter, std=0.1)
    told = {"labels": torch.eye(4)[[0, 2]], "augment_labels": torch.randn(2, 9)}
    out = network(torch.randn(2, 3, 8, 8), torch.tensor([0.1, 5.0]), told)
    assert out.shape == (2, 3, 8, 8)
    out.square().sum().backward()
    unused = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # A bias straight before a one-channel-a-group norm cannot matter; nothing else may be idle.
    assert not [n for n in unused if not n.endswith("conv0.bias") and "qkv.bias" not in n]


def test_an_untrained_denoiser_is_the_skip_path_alone() -> None:
    network = create_network("tiny", 8, 1)
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.01, 0.5, 80.0])
    c_skip = 0.25 / (sigma**2 + 0.25)
    assert torch.allclose(network(x, sigma, {}), c_skip.view(-1, 1, 1, 1) * x, atol=1e-6)


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
