"""How a run was measured, as pairs of a name and its value."""

from dashboards.run_files import Run
from dashboards.wording import count, level, level_vp, method_name, number, percent
from pareto_amb.config import DataConfig, EvaluationConfig, ShareRange, SigmaRange, SweepConfig
from pareto_amb.search.frontier import RECOMMENDED

SOURCES = {
    "digits": "scikit-learn digits",
    "images": "a folder or archive of images",
    "cifar10": "CIFAR-10",
}


def facts(run: Run) -> list[tuple[str, str]]:
    """What a reviewer must know to judge the figures, in the order they would ask."""
    config, evaluation = run.config, run.config.evaluation
    return [
        ("Data", _data(config.data)),
        ("Images trained on", ", ".join(f"{size:,}" for size in run.train_sizes())),
        ("FID", _fid(evaluation)),
        ("Similarity", _similarity(evaluation)),
        ("Copy threshold τ", _thresholds(run)),
        ("Held-out yardstick", _heldout(run)),
        ("Samples a measurement", count(evaluation.n_samples)),
        ("Full budget", _budget(config)),
        ("Measured at", _rungs(config)),
        ("σ_tn searched", _sigma(config)),
        ("Mix ratio searched", _mix(config)),
        ("Search", _search(config)),
        *_rivals(config),
        ("DDPM baseline", _baseline(config.search.baseline_seeds)),
        ("Seed of the run", str(config.seed)),
    ]


def _data(data: DataConfig) -> str:
    path = f" ({data.path})" if data.path else ""
    colour = "grey" if data.channels == 1 else "colour"
    return f"{SOURCES[data.source]}{path}, {data.resolution}×{data.resolution} pixels, {colour}"


def _fid(evaluation: EvaluationConfig) -> str:
    against = (
        "the full data set the training images were drawn from"
        if evaluation.reference == "full"
        else "images left out of training"
    )
    note = "" if evaluation.fid_encoder == "inception_v3" else "; not comparable with published FID"
    return f"features of {evaluation.fid_encoder}, against {against}{note}"


def _similarity(evaluation: EvaluationConfig) -> str:
    return (
        f"cosine similarity to the nearest training image in features of "
        f"{evaluation.similarity_encoder}, {evaluation.preprocessing} preprocessing"
    )


def _thresholds(run: Run) -> str:
    evaluation = run.config.evaluation
    used = run.results.groupby("train_size").threshold.first().dropna()
    values = "; ".join(f"{number(tau, 3)} at {size:,} images" for size, tau in used.items())
    if evaluation.thresholds is not None:
        listed = ", ".join(f"{tau:g}" for tau in evaluation.thresholds)
        primary = evaluation.thresholds[evaluation.primary_threshold]
        return f"{primary:g} (fixed in the sweep file; measured at {listed})"
    quantile = f"{evaluation.calibration_quantile:g} quantile"
    how = f"calibrated: the {quantile} of held-out images' similarity"
    return f"{how} ({values})" if values else how


def _heldout(run: Run) -> str:
    shares = run.results.groupby("train_size").heldout_memorization.mean().dropna()
    if shares.empty:
        return "none measured"
    return "; ".join(
        f"{percent(share)} of real images never trained on are above τ at {size:,} images"
        for size, share in shares.items()
    )


def _budget(config: SweepConfig) -> str:
    training = config.training
    return (
        f"{count(config.rung_images()[-1])} images seen, batches of {count(training.batch_size)}, "
        f"network {training.network.name}, {config.sampling.steps} sampling steps"
    )


def _rungs(config: SweepConfig) -> str:
    return ", ".join(count(seen) for seen in config.rung_images()) + " images seen"


def _sigma(config: SweepConfig) -> str:
    sigma_tn = config.space.sigma_tn
    if sigma_tn == "auto":
        return "auto, not set yet"
    if isinstance(sigma_tn, SigmaRange):
        return f"{_range(sigma_tn)}, log-uniformly"
    each = (
        f"{_range(found)} at {size:,} images, whose collapse level is {level(found.collapse_level)}"
        for size, found in sigma_tn.items()
    )
    return f"auto: {'; '.join(each)}; log-uniformly"


def _range(searched: SigmaRange) -> str:
    low, high = searched.low, searched.high
    return f"{level(low)} to {level(high)} (VP {level_vp(low)} to {level_vp(high)})"


def _mix(config: SweepConfig) -> str:
    mix = config.space.mix_ratio
    if isinstance(mix, ShareRange):
        return f"{mix.low:g} to {mix.high:g}"
    names = ("natural: P(σ ≥ σ_tn)" if choice == "natural" else f"{choice:g}" for choice in mix)
    return ", ".join(names)


def _rivals(config: SweepConfig) -> list[tuple[str, str]]:
    """The methods compared beside Algorithm 1, and what was searched for them; nothing without any."""
    if config.search.methods == (RECOMMENDED,):
        return []
    facts = [("Methods compared", ", ".join(["DDPM", *map(method_name, config.search.methods)]))]
    if "masking" in config.search.methods:
        corruption = config.space.corruption
        facts.append(("Pixels missing (masking)", f"{percent(corruption.low)} to {percent(corruption.high)}"))
    return facts


def _baseline(seeds: int) -> str:
    return f"{seeds} {'seed' if seeds == 1 else 'seeds'}, to full budget, never stopped early"


def _search(config: SweepConfig) -> str:
    search = config.search
    each = " and method" if len(search.methods) > 1 else ""
    return (
        f"{search.sampler}, {search.trials} trials for each train size{each}, the first "
        f"{min(search.startup_trials, search.trials)} spread evenly"
    )
