"""What each speed switch of a training step brings, alone and all together.

The plain step has weights in the default memory layout, runs eagerly in float32, and updates EMA and
weights tensor by tensor (Adam with neither foreach nor fused). Each switch is added to it alone; `all` has
every one. Variants take turns, so that a busy moment of the machine hits all of them alike; medians are
printed. "memory" is what a step needs beyond weights and optimizer, at its peak.

    python benchmarks/train_step.py --network tiny --batch 64
    python benchmarks/train_step.py --network ddpmpp --batch 8 --repetitions 3 --variants plain all
"""

import argparse
import ctypes
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pareto_amb.diffusion.losses import algorithm1_loss
from pareto_amb.diffusion.networks import create_network
from pareto_amb.diffusion.noise import LogNormal, draw_sigma
from pareto_amb.diffusion.speed import (
    compile_network,
    forward_precision,
    repair_gradients,
    tf32_matmul,
)

SWITCHES = ("channels_last", "foreach_ema", "fused_adam", "bf16", "compile", "tf32")
SIGMA_TN, EMA_DECAY = 0.3, 0.999


def make_step(options: argparse.Namespace, switches: frozenset[str]) -> Callable[[], None]:
    """One training step of Algorithm 1 on random images, with the given switches on."""
    device, batch = torch.device(options.device), options.batch
    torch.manual_seed(0)
    denoiser = create_network(options.network, options.resolution, options.channels).to(device).train()
    if "channels_last" in switches:
        denoiser.to(memory_format=torch.channels_last)
    forward = compile_network(denoiser) if "compile" in switches else denoiser
    parameters = list(denoiser.parameters())
    ema = [p.detach().clone() for p in parameters]
    kind = {"fused": True} if "fused_adam" in switches else {"foreach": False, "fused": False}
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, **kind)
    generator = torch.Generator(device).manual_seed(0)
    images = torch.rand(64, options.channels, options.resolution, options.resolution, device=device) * 2 - 1
    precision = "bf16" if "bf16" in switches else "fp32"
    tf32_device = device if "tf32" in switches else torch.device("cpu")

    def step() -> None:
        index = torch.randint(len(images), (batch,), generator=generator, device=device)
        nature = torch.rand(batch, generator=generator, device=device) < 0.5
        sigma = draw_sigma(LogNormal(), nature, SIGMA_TN, generator)
        target = images[index]
        added = (sigma**2 - (nature * SIGMA_TN) ** 2).sqrt().view(-1, 1, 1, 1)
        noise = torch.randn(target.shape, generator=generator, device=device)
        noisy = torch.addcmul(target, added, noise)
        optimizer.zero_grad(set_to_none=True)
        with tf32_matmul(tf32_device):
            with forward_precision(precision, device):
                denoised = forward(noisy, sigma, {})
            loss = algorithm1_loss(
                denoised, noisy, target, sigma, nature, SIGMA_TN, denoiser.space.sigma_data
            )
            loss.mean().backward()
        repair_gradients(parameters)
        optimizer.step()
        weights = [p.detach() for p in parameters]
        if "foreach_ema" in switches:
            torch._foreach_lerp_(ema, weights, 1 - EMA_DECAY)
        else:
            for mean, weight in zip(ema, weights, strict=True):
                mean.lerp_(weight, 1 - EMA_DECAY)

    return step


def timed(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Seconds a step, waiting for the device at both ends.

    On one CPU thread these are seconds of CPU time, which other programs on the machine do not lengthen.
    """
    clock = time.process_time if _on_one_thread(device) else time.perf_counter
    _wait(device)
    started = clock()
    for _ in range(steps):
        step()
    _wait(device)
    return (clock() - started) / steps


def _on_one_thread(device: torch.device) -> bool:
    return device.type == "cpu" and torch.get_num_threads() == 1


def peak_memory(step: Callable[[], None], device: torch.device) -> float:
    """MiB that one step adds at its peak; nan where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        timed(step, 1, device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier variants freed is not there to be reused
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts at what is used now
    except OSError:
        return float("nan")
    before = _status("VmRSS")
    timed(step, 1, device)
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="tiny", choices=["tiny", "ddpmpp", "ncsnpp", "adm"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--resolution", type=int, help="default: 8 for tiny, 32 for ddpmpp, else 64")
    parser.add_argument("--channels", type=int, help="default: 1 for tiny, else 3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps a repetition")
    parser.add_argument("--variants", nargs="+", default=["plain", *SWITCHES, "all"], metavar="VARIANT")
    options = parser.parse_args()
    options.resolution = options.resolution or {"tiny": 8, "ddpmpp": 32}.get(options.network, 64)
    if not options.device.startswith("cuda") and "tf32" in options.variants:
        options.variants.remove("tf32")
    options.channels = options.channels or (1 if options.network == "tiny" else 3)
    return options


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    chosen = {
        name: frozenset({"plain": (), "all": SWITCHES}.get(name, name.split("+")))
        for name in options.variants
    }
    unknown = set().union(*chosen.values()) - set(SWITCHES)
    if unknown:
        raise SystemExit(f"no switch {', '.join(unknown)}: choose from {', '.join(SWITCHES)}, joined by +")
    print(
        f"{options.network}, {options.channels}x{options.resolution}x{options.resolution}, batch "
        f"{options.batch}; torch {torch.__version__}, {options.threads} thread(s), {_processor(device)}; "
        f"median of {options.repetitions} interleaved repetitions of {options.steps} step(s)\n"
    )
    steps = {name: make_step(options, switches) for name, switches in chosen.items()}
    for step in steps.values():
        timed(step, 1, device)
    memory = {name: peak_memory(step, device) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repetitions):
        for name, step in steps.items():
            seconds[name].append(timed(step, options.steps, device))
    first = statistics.median(next(iter(seconds.values())))
    unit = "CPU seconds" if _on_one_thread(device) else "seconds"
    print(f"| step | {unit} (min to max) | images/s | ratio to {options.variants[0]} | memory, MiB |")
    print("|---|---:|---:|---:|---:|")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"| {name} | {median:.4g} ({min(values):.4g} to {max(values):.4g}) "
            f"| {options.batch / median:.1f} | {first / median:.2f} | {memory[name]:.0f} |"
        )


if __name__ == "__main__":
    main()
