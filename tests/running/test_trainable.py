"""A trial without Ray around it, and with it: where it takes up again after a kill or a pause."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from rich.console import Console
from safetensors.torch import load, load_file

from pareto_amb import search_spaces
from pareto_amb.config import N_PROBED_LEVELS, SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.declared import Objective
from pareto_amb.diffusion.checkpoint import unpack
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.evaluation.trial import EncodedSamples, evaluate_samples
from pareto_amb.results.live import Heartbeat
from pareto_amb.results.run_directory import RunDirectory, checkpoint_name
from pareto_amb.results.table import shipped
from pareto_amb.running.assets import bare_training_sets, references_of, training_pixels
from pareto_amb.running.cluster import ray_cluster
from pareto_amb.running.confirm import GivenTrials
from pareto_amb.running.materials import load_materials
from pareto_amb.running.stopping import put_up_sign
from pareto_amb.sweep_file import parse_sweep
from pareto_amb.trainables import trial_trainable
from pareto_amb.trainables.trial_trainable import SweepAssets, TrialTrainable
from pareto_amb.trial import Trial

pytestmark = pytest.mark.slow

TINY = [
    "training.images=512",
    "evaluation.n_samples=20",
    "evaluation.fid_encoder=pixels",
    "evaluation.similarity_encoder=pixels",
    "evaluation.probes=[]",
]


@pytest.fixture(scope="module")
def prepared() -> dict[str, Any]:
    config = parse_sweep(apply_overrides(search_spaces.load("smoke"), TINY), "smoke")
    materials = load_materials(config, Console(quiet=True))
    return {
        "config": config,
        "declared": shipped(),
        "methods": METHODS,
        "training_sets": bare_training_sets(materials),
        "pixels": training_pixels(materials),
        "encoded": None,
        "references": references_of(config, materials),
        "probes": materials.probes(config, materials.collapse_levels(config)),
        "fid_encoder": materials.fid_encoder,
        "similarity_encoder": materials.similarity_encoder,
        "judge": None,
        "text_model": None,
        "prompts": {},
        "stop_sign": None,
    }


class Lookout:
    """In the place of the real one: the sign is raised where `raised_at` checkpoints have been looked for."""

    raised_at: float = float("inf")

    def __init__(self, sign: None) -> None:
        self.looks, self.told, self.beats = 0, list[str](), list[Heartbeat]()

    def raised(self) -> bool:
        self.looks += 1
        return self.looks >= self.raised_at

    def beat(self, beat: Heartbeat) -> None:
        self.beats.append(beat)

    def training(self, trial_id: str) -> None:
        self.told.append("training")

    def saved(self, trial_id: str) -> None:
        self.told.append("saved")

    def hold(self) -> None:
        self.told.append("held")
        raise KeyboardInterrupt  # the worker is killed here


@pytest.fixture
def begin(prepared: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrialTrainable]:
    """Starts the trial whose checkpoint lies in a folder, after so many rungs have a row in the table."""
    monkeypatch.setattr("pareto_amb.trainables.trial_trainable.ray.get_gpu_ids", list)
    monkeypatch.setattr("pareto_amb.trainables.trial_trainable.Lookout", Lookout)
    monkeypatch.setattr("pareto_amb.evaluation.probes.N_PROBES", 16)  # most of the time of a trial so small

    def start(
        folder: Path,
        measured: int,
        trial_id: str = "t",
        method: str = "algorithm1",
        final_samples: int | None = None,
        probes: tuple[float, ...] = (),
        branch_from: str | float | None = None,
        **more: Any,
    ) -> TrialTrainable:
        parameters = {"sigma_tn": 0.5, "mix_ratio": 0.5} if method != "ddpm" else {}
        trial = Trial(trial_id, method, 50, 1, parameters, measured=measured, **more)
        config: SweepConfig = prepared["config"]
        evaluation = config.evaluation.model_copy(update={"final_samples": final_samples, "probes": probes})
        search = config.search.model_copy(update={"branch_from": branch_from})
        config = config.model_copy(update={"evaluation": evaluation, "search": search})
        trainable = TrialTrainable.__new__(TrialTrainable)
        assets = SweepAssets(storage_uri=str(folder), **{**prepared, "config": config})
        trainable.setup(trial.config(), assets)
        return trainable

    return start


def next_row(trainable: TrialTrainable) -> dict[str, Any]:
    return {key: value for key, value in trainable.step()["row"].items() if not key.endswith("_seconds")}


def test_a_rung_with_a_row_is_not_measured_again_and_nothing_else_differs(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    whole = begin(tmp_path / "whole", 0)
    rows = [next_row(whole) for _ in range(2)]
    assert [(row["rung"], row["status"]) for row in rows] == [(1, "running"), (2, "complete")]
    assert {row["device"] for row in rows} == {"cpu"}
    parts = [next_row(begin(tmp_path / "parts", measured)) for measured in (0, 1)]
    assert parts == rows
    files = [tmp_path / folder / "checkpoints" / "t.safetensors" for folder in ("whole", "parts")]
    first, second = (load_file(file) for file in files)
    assert all(torch.equal(first[name], second[name]) for name in first | second)


def test_a_trial_of_two_gpus_trains_on_two_processes_and_ends_them(
    begin: Callable[..., TrialTrainable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = begin(tmp_path / "one", 0)
    row = next_row(alone)
    monkeypatch.setattr("pareto_amb.trainables.trial_trainable.ray.get_gpu_ids", lambda: [0, 1])
    monkeypatch.setattr("pareto_amb.trainables.trial_trainable._device", lambda: torch.device("cpu"))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "lo")  # and gone after the test
    two = begin(tmp_path / "two", 0)
    other = next_row(two)
    (member,) = two._crew._members
    assert two.reset_config(replace(two._trial, id="u", measured=0).config())
    assert next_row(two)["trial_id"] == "u"
    assert member.poll() is None  # it serves the next trial, too
    two.cleanup()
    assert member.poll() is not None
    assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-3)
    assert other["probe_train"] == pytest.approx(row["probe_train"], rel=1e-3)
    saved = [load_file(tmp_path / name / "checkpoints" / "t.safetensors") for name in ("one", "two")]
    assert all(
        torch.allclose(saved[0][name], saved[1][name], atol=1e-3) for name in saved[0] if "model." in name
    )


def test_a_rung_that_was_trained_but_has_no_row_is_measured(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    assert next_row(begin(tmp_path, 0)) == next_row(begin(tmp_path, 0))


def test_a_repeat_is_trained_like_its_trial_and_measured_where_it_stops_only(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    whole = begin(tmp_path / "whole", 0)
    rows = [next_row(whole) for _ in range(2)]
    for rung in (1, 2):
        trainable = begin(tmp_path / "again", 0, f"t-r{rung}-c1", confirms="t", last=rung)
        repeat = trainable.step()
        assert repeat["done"]
        own = repeat["row"]
        assert (own["rung"], own["status"], own["confirms"]) == (rung, "complete", "t")
        assert (own["budget"], own["images_seen"]) == (rung / 2, 256 * rung)
        assert own["fid"] == rows[rung - 1]["fid"]  # the seed is the same here
        saved = trainable._store.read(checkpoint_name(f"t-r{rung}-c1"))
        assert saved is not None
        assert unpack(saved, "")[0]["images_seen"] == 256 * rung
    without = begin(tmp_path / "old", 0, "t-c1", confirms="t")  # of an older version, to the end
    assert next_row(without)["rung"] == 2


def test_a_control_is_measured_where_its_repeat_stops_and_says_whose_it_is(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    control = next_row(begin(tmp_path, 0, "t-r1-c1-control", "control", controls="t", last=1))
    found = {name: control[name] for name in ("method", "controls", "confirms", "rung", "status", "sigma_tn")}
    assert found == {
        "method": "control", "controls": "t", "confirms": "", "rung": 1, "status": "complete", "sigma_tn": 0.5
    }  # fmt: skip


def test_a_trial_that_was_cut_off_after_its_last_rung_measures_that_again(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    whole = begin(tmp_path, 0)
    rows = [next_row(whole) for _ in range(2)]
    again = next_row(begin(tmp_path, 2))
    assert again.pop("train_loss") == pytest.approx(rows[1].pop("train_loss"))
    assert again == rows[1]


def test_a_checkpoint_past_the_end_of_a_trial_is_named(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    whole = begin(tmp_path, 0)
    for _ in range(2):
        whole.step()
    with pytest.raises(UserError, match=r"^checkpoints/t\.safetensors: has seen 512 images, .* ends at 256;"):
        begin(tmp_path, 0, confirms="x", last=1).step()


@pytest.mark.parametrize(
    ("more", "at_rungs"),
    [
        ({"confirms": "x", "last": 1}, [1]),
        ({"method": "control", "controls": "x", "last": 1}, [1]),
        ({"method": "ddpm"}, [2]),
        ({}, []),
    ],
    ids=["repeat", "control", "baseline", "one of the search"],
)
def test_what_is_compared_in_the_end_is_measured_on_more_samples_once(
    begin: Callable[..., TrialTrainable],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    at_rungs: list[int],
) -> None:
    drawn: list[torch.Tensor] = []
    generate = trial_trainable.generate

    def drawing(*arguments: Any, **named: Any) -> torch.Tensor:
        drawn.append(generate(*arguments, **named))
        return drawn[-1]

    monkeypatch.setattr(trial_trainable, "generate", drawing)
    plain, final = (
        begin(tmp_path / "plain", 0, **more),
        begin(tmp_path / "final", 0, final_samples=50, **more),
    )
    for rung in range(more.get("last", 1), more.get("last", 2) + 1):
        row = next_row(plain)
        drawn.clear()
        found = next_row(final)
        assert {name: found[name] for name in row} == row
        added = found.keys() - row.keys()
        if rung not in at_rungs:
            assert (len(drawn), added) == (1, set())
            continue
        assert [len(samples) for samples in drawn] == [20, 30]
        pixels, objectives = load_encoder("pixels"), final._assets.declared.objectives
        once = evaluate_samples(torch.cat(drawn), final._reference, objectives, pixels, pixels).metrics
        expected = {f"final_{name}": once[name] for name in ("n_samples", "fid", "fid_se", "memorization")}
        assert {name: found[name] for name in expected} == expected
        assert added == {*expected, "final_memorization_se"}
        assert (
            next_row(begin(tmp_path / "final", 0, final_samples=50, **more)) == found
        )  # killed before the row


def test_pixels_of_a_final_measurement_are_kept_only_where_an_objective_may_look_at_them(
    begin: Callable[..., TrialTrainable], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evaluated: list[tuple[int, int]] = []
    evaluate = trial_trainable.evaluate_encoded

    def evaluating(encoded: EncodedSamples, *others: Any) -> Any:
        evaluated.append((len(encoded.samples), len(encoded.fid_features)))
        return evaluate(encoded, *others)

    monkeypatch.setattr(trial_trainable, "evaluate_encoded", evaluating)
    brightness = Objective("light", "light", "mean", measure=lambda m: float(m.samples.double().mean()))
    rows = []
    for own in ({}, {"light": brightness}):
        final = begin(tmp_path / f"{len(own)}", 0, method="ddpm", final_samples=50)
        assets = final._assets
        sampling = assets.config.sampling.model_copy(update={"batch_size": 10})
        evaluation = assets.config.evaluation.model_copy(update={"batch_size": 15})
        config = assets.config.model_copy(update={"sampling": sampling, "evaluation": evaluation})
        declared = replace(assets.declared, objectives={**assets.declared.objectives, **own})
        final._assets = replace(assets, config=config, declared=declared)
        rows.append([next_row(final) for _ in range(2)][-1])
    assert evaluated == [(20, 20), (20, 20), (20, 50), (20, 20), (20, 20), (50, 50)]
    assert rows[0] == {name: rows[1][name] for name in rows[0]}
    assert rows[1]["final_n_samples"] == 50


def test_a_note_of_what_was_measured_goes_with_a_trial_that_pauses(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    whole = begin(tmp_path / "whole", 0)
    rows = [next_row(whole) for _ in range(2)]
    paused = begin(tmp_path / "parts", 0)
    assert next_row(paused) == rows[0]
    paused.save_checkpoint(str(tmp_path))
    other = begin(tmp_path / "parts", 0, "other")  # the actor has another trial in between
    assert other.reset_config(Trial("t", "algorithm1", 50, 1, {"sigma_tn": 0.5, "mix_ratio": 0.5}).config())
    other.load_checkpoint(str(tmp_path))
    assert next_row(other) == rows[1]


def test_at_a_probe_rung_nothing_is_generated_and_what_follows_is_the_same(
    begin: Callable[..., TrialTrainable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = begin(tmp_path / "without", 0)
    plain = [next_row(without) for _ in range(2)]
    sampled: list[int] = []
    generate = trial_trainable.generate

    def counting(denoiser: Any, seeds: Any, *rest: Any, **named: Any) -> torch.Tensor:
        sampled.append(len(seeds))
        return generate(denoiser, seeds, *rest, **named)

    monkeypatch.setattr(trial_trainable, "generate", counting)
    # Killed after each rung, and once more after a probe rung was trained but has no row.
    probed = next_row(begin(tmp_path / "with", 0, probes=(0.125,)))
    assert sampled == []
    assert next_row(begin(tmp_path / "with", 0, probes=(0.125,))) == probed
    rows = [probed, *(next_row(begin(tmp_path / "with", k, probes=(0.125,))) for k in (1, 2))]
    assert sampled == [20, 20]
    found = [(row["rung"], row["images_seen"], row["budget"], row["status"]) for row in rows]
    assert found == [(1, 64, 0.125, "running"), (2, 256, 0.5, "running"), (3, 512, 1.0, "complete")]
    assert (probed["n_samples"], math.isnan(probed["fid"]), math.isnan(probed["memorization"])) == (
        0,
        True,
        True,
    )
    for row in rows:
        assert (
            len(row["probe_levels"])
            == len(row["probe_train"])
            == len(row["probe_heldout"])
            == N_PROBED_LEVELS
        )
    assert rows[0]["probe_train"] != rows[1]["probe_train"]
    names = plain[0].keys() - {"rung", "train_loss"}
    assert [{n: row[n] for n in names} for row in rows[1:]] == [{n: row[n] for n in names} for row in plain]
    pictures = sorted(path.name for path in (tmp_path / "with" / "samples" / "t").iterdir())
    assert pictures == ["rung-2.npz", "rung-2.png", "rung-3.npz", "rung-3.png"]


BASELINE = {"trial_id": "n50-ddpm-s0", "method": "ddpm"}
BRANCHING = {"probes": (0.25,), "branch_from": "auto"}


def file_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"{name}.safetensors")


def test_the_first_baseline_leaves_a_checkpoint_at_each_rung_that_may_be_branched_at(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    """What it is at that rung, and nothing that changes the baseline."""
    for branch_from, left in (("auto", [1, 2]), (0.5, [2]), (None, [])):
        folder, trunks = tmp_path / str(branch_from), []
        for measured in range(3):  # killed after each rung
            baseline = begin(folder, measured, **BASELINE, probes=(0.25,), branch_from=branch_from)
            assert next_row(baseline)["branched_at"] == 0
            now = file_of(folder, "n50-ddpm-s0")
            if (folder / "checkpoints" / f"n50-ddpm-s0-r{measured + 1}.safetensors").exists():
                trunks.append(measured + 1)
                then = file_of(folder, f"n50-ddpm-s0-r{measured + 1}")
                same = [name for name in now if name.startswith(("model.", "ema.", "optimizer."))]
                assert all(torch.equal(now[name], then[name]) for name in same)
        assert trunks == left
        second = begin(folder, 0, "n50-ddpm-s1", "ddpm", **BRANCHING)
        next_row(second)
        assert not (folder / "checkpoints" / "n50-ddpm-s1-r1.safetensors").exists()


@pytest.mark.parametrize("rung", [1, 2])
def test_a_branched_trial_is_the_training_that_goes_on_from_that_checkpoint_bit_for_bit(
    begin: Callable[..., TrialTrainable], prepared: dict[str, Any], tmp_path: Path, rung: int
) -> None:
    """It measures the rungs after it, and may be killed between two of them."""
    baseline, config = begin(tmp_path, 0, **BASELINE, **BRANCHING), prepared["config"]
    for _ in range(3):
        baseline.step()
    images = (128, 256)[rung - 1]
    rows = []
    for measured in (0, *range(rung + 1, 3)):
        trial = begin(tmp_path, measured, branched_at=images, **BRANCHING)
        rows.append(next_row(trial))
    assert [row["rung"] for row in rows] == [2, 3][rung - 1 :]
    assert {row["branched_at"] for row in rows} == {images}
    method = METHODS["algorithm1"].create({"sigma_tn": 0.5, "mix_ratio": 0.5}, config.sampling.sigma_max)
    pixels = torch.from_numpy(prepared["pixels"][:50])
    training_set = replace(prepared["training_sets"][50], images=pixels)
    own = Trainer(training_set, config.training, method, seed=1, branched_at=images)
    own.branch((tmp_path / "checkpoints" / f"n50-ddpm-s0-r{rung}.safetensors").read_bytes())
    own.train(512)
    made, found = load(own.checkpoint()), file_of(tmp_path, "t")
    assert made.keys() == found.keys()
    different = [name for name in made if not torch.equal(made[name], found[name])]
    assert different in ([], ["loss_sum"])  # whose mean begins at each rung
    next_row(begin(tmp_path / "scratch", 2))
    scratch = file_of(tmp_path / "scratch", "t")
    assert not any(torch.equal(scratch[name], found[name]) for name in found if name.endswith("exp_avg"))


def test_a_trunk_that_is_missing_or_damaged_is_named_with_a_remedy(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    remedy = "restore it, or begin a new sweep, with search.branch_from null where none is wanted$"
    start = r"^checkpoints/n50-ddpm-s0-r2\.safetensors: "
    with pytest.raises(UserError, match=f"{start}is missing, and t goes on from it; {remedy}"):
        begin(tmp_path, 0, branched_at=256, **BRANCHING).step()
    baseline = begin(tmp_path, 0, **BASELINE, **BRANCHING)
    for _ in range(2):
        baseline.step()
    path = tmp_path / "checkpoints" / "n50-ddpm-s0-r2.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{start}not a pareto-amb checkpoint, or cut short .*; {remedy}"):
        begin(tmp_path, 0, branched_at=256, **BRANCHING).step()


def test_the_training_from_scratch_of_a_branched_trial_is_measured_at_every_rung(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    again = begin(tmp_path, 0, "t-r3-c0", confirms="t", last=3, every_rung=True, **BRANCHING)
    rows = [next_row(again) for _ in range(2)]
    again = begin(tmp_path, 2, "t-r3-c0", confirms="t", last=3, every_rung=True, **BRANCHING)
    rows.append(next_row(again))
    assert [(row["rung"], row["n_samples"], row["branched_at"]) for row in rows] == [
        (1, 0, 0), (2, 20, 0), (3, 20, 0)
    ]  # fmt: skip
    assert rows[-1]["status"] == "complete"


FOLLOWER = {
    "trial_id": "t-r1-c1-control",
    "method": "control",
    "controls": "t",
    "last": 1,
    "final_samples": 30,
}


@pytest.mark.parametrize(
    ("steps", "more"),
    [(1, {}), (3, {}), (10**6, {}), (3, {"confirms": "x", "last": 2}), (3, FOLLOWER)],
    ids=["first step", "third step", "never", "a repeat", "a control"],
)
def test_a_trial_that_is_stopped_checkpoints_at_once_and_goes_on_as_if_nothing_was(
    begin: Callable[..., TrialTrainable],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    more: dict[str, Any],
) -> None:
    whole = next_row(begin(tmp_path / "whole", 0, **more))
    monkeypatch.setattr(Lookout, "raised_at", steps)
    stopped = begin(tmp_path / "parts", 0, **more)
    with suppress(KeyboardInterrupt):
        next_row(stopped)
    lookout = cast(Lookout, stopped._lookout)
    if steps < 10**6:
        assert stopped._trainer.images_seen == steps * stopped._assets.config.training.batch_size
        assert lookout.told[:3] == ["training", "saved", "held"]
    else:
        assert lookout.told == ["training", "saved"]
        assert [(beat.doing, beat.step) for beat in lookout.beats] == [
            ("training", 0),
            ("measuring", stopped._trainer.images_seen // stopped._assets.config.training.batch_size),
        ]
    monkeypatch.setattr(Lookout, "raised_at", float("inf"))
    resumed = begin(tmp_path / "parts", 0, **more)
    saved = stopped._store.read(checkpoint_name(stopped._trial.id))
    assert saved is not None
    assert unpack(saved, "")[0]["images_seen"] == stopped._trainer.images_seen
    assert next_row(resumed) == whole


class PauseOnce(FIFOScheduler):
    """Lets every trial wait once, after its first result."""

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        first = result["training_iteration"] == 1
        return str(TrialScheduler.PAUSE if first else TrialScheduler.CONTINUE)


class Listener(tune.Callback):
    """Notes the rungs that are measured."""

    def __init__(self) -> None:
        self.measured: list[tuple[str, int]] = []

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **_: Any
    ) -> None:
        self.measured.append((result["row"]["trial_id"], result["rung"]))


@pytest.mark.slow
def test_no_rung_is_measured_twice_where_ray_pauses_and_resumes_trials_in_one_actor(
    prepared: dict[str, Any], tmp_path: Path
) -> None:
    parameters, listener = {"sigma_tn": 0.5, "mix_ratio": 0.5}, Listener()
    trials = [Trial(name, "algorithm1", 50, 1, parameters) for name in "ab"]
    with ray_cluster(None, RunDirectory(tmp_path)):
        assets = SweepAssets(storage_uri=str(tmp_path), **{**prepared, "stop_sign": put_up_sign()})
        trainable = tune.with_parameters(TrialTrainable, assets=assets)
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),  # which is one trial at a time
            tune_config=tune.TuneConfig(
                search_alg=GivenTrials(trials, list(assets.declared.objectives.values())),
                scheduler=PauseOnce(),
                num_samples=len(trials),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(tmp_path), callbacks=[listener], verbose=0
            ),
        ).fit()
    assert sorted(listener.measured) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert listener.measured[:2] == [("a", 1), ("b", 1)]
