import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.denoiser import Conditioning, Denoiser, PixelSpace
from pareto_amb.diffusion.networks import create_network
from pareto_amb.diffusion.sampler import (
    SOLVERS,
    finish,
    generate,
    karras_sigmas,
    sample_dpmpp_2m,
    sample_heun,
)
from pareto_amb.errors import UserError
from pareto_amb.randomness import normal_per_item


def test_noise_levels_run_from_max_to_min_then_zero() -> None:
    sigmas = karras_sigmas(18, 0.002, 80.0, 7.0)
    assert len(sigmas) == 19
    assert float(sigmas[0]) == pytest.approx(80.0)
    assert float(sigmas[-2]) == pytest.approx(0.002)
    assert float(sigmas[-1]) == 0
    assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize("sample", [sample_heun, sample_dpmpp_2m])
def test_on_gaussian_data_samplers_converge_to_the_exact_flow_at_second_order(
    sample: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor], Tensor],
) -> None:
    # For x_0 ~ N(0, s^2) the flow scales x by s / sqrt(s^2 + sigma_max^2).
    s, sigma_max = 0.5, 80.0
    x = torch.randn(64, 1, 1, 1, dtype=torch.float64) * sigma_max
    exact = x * s / math.sqrt(s**2 + sigma_max**2)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return s**2 / (s**2 + sigma.view(-1, 1, 1, 1) ** 2) * x

    errors = []
    for steps in (20, 40, 80):
        sigmas = karras_sigmas(steps, 0.002, sigma_max, 7.0)
        errors.append(float((sample(denoise, x, sigmas) - exact).abs().max()))
    assert errors[0] / errors[1] > 3.3
    assert errors[1] / errors[2] > 3.3
    assert errors[2] < 0.01 * float(exact.abs().max())


class _Counting(Denoiser):
    calls = 0

    def __init__(self) -> None:
        super().__init__(PixelSpace((1, 4, 4)), {})

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls += 1
        return x * 0.5


@pytest.mark.parametrize("sigma_stop", [0.0, 0.5])
def test_sampling_on_from_the_highest_level_is_sampling(sigma_stop: float) -> None:
    denoiser = _Counting()
    whole = generate(denoiser, range(5), sampling_conditioning(denoiser), sigma_stop=sigma_stop)
    noise = normal_per_item(0, "sampling", range(5), (1, 4, 4))
    assert torch.equal(finish(denoiser, 80.0 * noise, 80.0, {}, sigma_stop=sigma_stop), whole)


def test_sampling_on_from_below_the_lowest_level_is_one_step() -> None:
    denoiser, x = _Counting(), torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    for level, sigma_stop in ((0.001, 0.0), (0.2, 0.3)):
        denoiser.calls = 0
        ended = finish(denoiser, x, level, {}, sigma_stop=sigma_stop)
        assert denoiser.calls == 1
        assert torch.equal(ended, denoiser.space.decode(0.5 * x))


@pytest.mark.parametrize(("solver", "evaluations"), [("heun", 9), ("dpmpp_2m", 5)])
def test_a_solver_costs_the_evaluations_it_says(solver: str, evaluations: int) -> None:
    denoiser = _Counting()
    generate(denoiser, range(3), sampling_conditioning(denoiser), solver=solver, steps=5)
    assert denoiser.calls == evaluations


def test_an_unknown_solver_is_refused_and_a_registered_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = _Counting()
    with pytest.raises(UserError, match="unknown solver 'euler': choose one of heun, dpmpp_2m"):
        generate(denoiser, range(3), sampling_conditioning(denoiser), solver="euler")
    monkeypatch.setitem(SOLVERS, "euler", lambda denoise, x, sigmas: torch.full_like(x, 0.5))
    images = generate(denoiser, range(3), sampling_conditioning(denoiser), solver="euler")
    assert (images == 191).all()


def test_dpmpp_2m_is_exact_where_d_does_not_change() -> None:
    sigmas = torch.tensor([2.0, 1.9, 0.3, 0.05], dtype=torch.float64)
    x = sample_dpmpp_2m(lambda x, _: torch.full_like(x, 0.25), torch.full((1, 1, 1, 1), 1.25), sigmas)
    assert float(x) == pytest.approx(0.25 + 0.05 / 2.0, rel=1e-6)  # the distance to D shrinks with sigma


def test_dpmpp_2m_extrapolates_d_to_the_middle_of_the_step_in_log_sigma() -> None:
    # D = log sigma: the second step, from 1 to 1/2 after one from 4 to 1, must use D at sigma = sqrt(1/2).
    sigmas = torch.tensor([4.0, 1.0, 0.5], dtype=torch.float64)
    start = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    x = sample_dpmpp_2m(lambda x, sigma: sigma.log().view(-1, 1, 1, 1).expand_as(x), start, sigmas)
    after_first = 0.75 * math.log(4)
    assert float(x) == pytest.approx(0.5 * after_first + 0.5 * math.log(math.sqrt(0.5)), rel=1e-9)


def test_an_image_depends_on_its_seed_alone() -> None:
    torch.manual_seed(0)
    denoiser = create_network("tiny", 8, 1, label_dim=3, model_channels=8)
    nn.init.normal_(denoiser.network.out.weight, std=0.1)
    denoiser.eval()
    told = sampling_conditioning(denoiser)
    together = generate(denoiser, range(7), told, steps=4)
    in_parts = generate(denoiser, range(7), told, steps=4, batch_size=2)
    alone = generate(denoiser, [5], told, steps=4)
    assert (together.int() - in_parts.int()).abs().max() <= 1  # rounding of batched arithmetic
    assert (together[5].int() - alone[0].int()).abs().max() <= 1
    other = generate(denoiser, [5], told, steps=4, base_seed=1)
    assert (other[0].int() - alone[0].int()).abs().max() > 1


class _Constant(Denoiser):
    """D is one number everywhere, and the points it was asked at are kept."""

    def __init__(self, value: float) -> None:
        super().__init__(PixelSpace((1, 2, 2)), {})
        self.value = value
        self.asked: list[tuple[Tensor, float]] = []

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self.asked.append((x, float(sigma[0])))
        return torch.full_like(x, self.value)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("value", "clip", "limit"), [(3, True, 1), (3, False, 3), (-2, True, -1)])
def test_clipping_holds_d_to_the_range_of_pixels(solver: str, value: float, clip: bool, limit: float) -> None:
    # Where D is a constant c, the flow is x = c + (x_max - c) sigma / sigma_max, at every level.
    spy = _Constant(value)
    told = sampling_conditioning(spy)
    generate(spy, range(5), told, solver=solver, steps=6, sigma_max=8.0, clip_denoised=clip)
    start = spy.asked[0][0]
    for x, sigma in spy.asked:
        assert torch.allclose(x, limit + (start - limit) * sigma / 8, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_clipping_and_within_the_range_nothing_changes(
    solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    denoiser = create_network("tiny", 8, 1, model_channels=8).eval()
    nn.init.normal_(denoiser.network.out.weight, std=0.1)
    told = sampling_conditioning(denoiser)
    final: list[Tensor] = []
    plain = SOLVERS[solver]

    def keep(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
        final.append(plain(denoise, x, sigmas))
        return final[-1]

    monkeypatch.setitem(SOLVERS, solver, keep)
    for clip in ({}, {"clip_denoised": False}, {"clip_denoised": True}):
        generate(denoiser, range(3), told, solver=solver, steps=4, **clip)
    assert torch.equal(final[0], final[1])
    assert float(final[0].abs().max()) > 1
    assert float(final[2].abs().max()) <= 1

    within = _Constant(0.3)
    for clip_denoised in (False, True):
        generate(within, range(3), sampling_conditioning(within), solver=solver, clip_denoised=clip_denoised)
    assert torch.equal(final[3], final[4])


def test_progress_counts_every_image() -> None:
    seen: list[int] = []
    denoiser = _Counting()
    told = sampling_conditioning(denoiser)
    generate(denoiser, range(5), told, steps=2, batch_size=2, progress=seen.append)
    assert seen == [2, 2, 1]


def test_no_seeds_give_no_images() -> None:
    denoiser = _Counting()
    images = generate(denoiser, [], sampling_conditioning(denoiser))
    assert (images.shape, images.dtype) == ((0, 1, 4, 4), torch.uint8)
