"""Run directories with a plausible sweep in them, made without training anything."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pareto_amb.config import SweepConfig
from pareto_amb.config_file import to_yaml
from pareto_amb.declared import Declared, MethodInfo, Objective, Parameter
from pareto_amb.results.baseline import Figures, Spread, spread
from pareto_amb.results.parquet import NUMBERS
from pareto_amb.results.points import Budget
from pareto_amb.results.recommend import recommend
from pareto_amb.results.recommendation import Gain, OtherTraining, Recommendation
from pareto_amb.results.size import Results, SizeResults
from pareto_amb.results.table import METADATA, columns, shipped

N_TRIALS = 16
RUNGS = (0.25, 0.5, 1.0)
BUDGET = 512_000

DECLARED = shipped()
SCHEMA = {column.name: column.dtype for column in columns(DECLARED).values()}
LISTS = [name for name, dtype in SCHEMA.items() if dtype == "object"]

DIVERSITY = Objective(
    "diversity",
    label="diversity",
    description="share of the training images that are nearest to a sample",
    direction="max",
    kind="share",
    ideal=1.0,
    noise="share",
)
TEMPERATURE = Parameter(
    "temperature",
    label="temperature <T>",
    description="how far a label is smoothed; a range",
    limits=(0.0, 10.0),
    default={"low": 0.5, "high": 5.0},
)
SMOOTHED = MethodInfo("smoothed", "Smoothed <b>", "Smoothed labels.", parameters=(TEMPERATURE,))


def sweep_config(**changes: Any) -> SweepConfig:
    values: dict[str, Any] = {
        "name": "faces-300",
        "description": "Portraits of a clinic's staff, a rehearsal on public faces.",
        "data": {"source": "images", "path": "faces.zip", "resolution": 16, "channels": 3},
        "space": {
            "train_size": [300],
            "sigma_tn": {"low": 0.1, "high": 10.0},
            "mix_ratio": {"low": 0.1, "high": 0.9},
        },
        "training": {"images": BUDGET},
        "evaluation": {"n_samples": 5000, "rungs": list(RUNGS)},
        "search": {"trials": N_TRIALS, "baseline_seeds": 3},
    }
    return SweepConfig.model_validate(values | changes)


def sweep_rows(train_size: int, seed: int = 0) -> pd.DataFrame:
    """A U over sigma_tn in fid, a fall in memorization, three DDPM seeds, one failed trial."""
    rng = np.random.default_rng([seed, train_size])
    rows: list[dict[str, Any]] = []
    sigmas = np.exp(np.linspace(np.log(0.12), np.log(9.0), N_TRIALS))
    for number, sigma in enumerate(sigmas):
        mix = float(rng.uniform(0.15, 0.85))
        name = f"n{train_size}-algorithm1-{number:04d}"
        if number == N_TRIALS - 1:
            rows.append(_row(name, "algorithm1", train_size, sigma, mix, 0, 0, rng))
            rows[-1] |= {"status": "failed", "error": "loss became nan at image 12,800"}
            continue
        paused = number in (3, 13)
        for rung in range(1, 3 if paused else 4):
            row = _row(name, "algorithm1", train_size, float(sigma), mix, 0, rung, rng)
            rows.append(row | {"status": "paused" if paused else "complete"})
    for number in range(3):
        for rung in range(1, 4):
            name = f"n{train_size}-ddpm-s{number}"
            rows.append(_row(name, "ddpm", train_size, 0.0, 0.0, number, rung, rng))
    frame = pd.DataFrame(rows).reindex(columns=list(SCHEMA)).astype(SCHEMA)
    measured = frame.fid.notna()
    baselines_first = np.argsort(np.argsort(frame.method != "ddpm", kind="stable"), kind="stable")
    return frame.assign(
        **{name: [[] for _ in range(len(frame))] for name in LISTS},
        recorded_at=1.7e9 + baselines_first,
        fid_se=np.where(measured, 0.1, np.nan),
        memorization_se=np.where(measured, 0.004, np.nan),
    )


def probed_rows(results: pd.DataFrame, collapse_level: float = 0.8) -> pd.DataFrame:
    """`results` with probes at every rung, and a probe rung at an eighth of the budget.

    DDPM comes to know its training images around half the collapse level, Algorithm 1 only a little.
    """
    first = results[(results.rung == 1) & (results.confirms == "") & (results.controls == "")]
    known = [*DECLARED.parameters, "recorded_at", "train_seconds", "eval_seconds"]
    unknown = {name: np.nan for name, dtype in SCHEMA.items() if dtype == "float64" and name not in known}
    early = first.assign(**unknown, fid_se=np.nan, memorization_se=np.nan, n_samples=0)
    early = early.assign(rung=0, budget=0.125, images_seen=BUDGET // 8)
    rows = pd.concat([early, results[results.rung > 0]], ignore_index=True)
    levels = (collapse_level * np.geomspace(0.05, 4, 7)).round(4)
    bump = np.exp(-(np.log(levels / (0.45 * collapse_level)) ** 2) / 0.8)
    errors = 0.02 + 0.2 * levels / (1 + levels)
    heldout = [
        (errors * (1 + (2.4 if method == "ddpm" else 0.25) * budget**1.5 * bump)).tolist()
        for method, budget in zip(rows.method, rows.budget, strict=True)
    ]
    return rows.assign(
        rung=rows.rung + 1,
        probe_levels=[levels.tolist()] * len(rows),
        probe_train=[errors.tolist()] * len(rows),
        probe_heldout=heldout,
    )


def confirmed_rows(results: pd.DataFrame, trial_id: str, worse: float = 0.4) -> pd.DataFrame:
    """`results` and two fresh seeds of one of its trials that do a little worse, measured at the end."""
    original = results[(results.trial_id == trial_id) & (results.budget == 1)].iloc[0]
    repeats = [
        original.to_dict()
        | {
            "trial_id": f"{trial_id}-c{k}",
            "confirms": trial_id,
            "seed": 1_000_000 + k,
            "fid": original.fid + k * worse,
            "memorization": original.memorization + 0.01 * k,
            "recorded_at": 1.8e9 + k,
        }
        for k in (1, 2)
    ]
    return pd.concat([results, pd.DataFrame(repeats)], ignore_index=True)


def followed_rows(results: pd.DataFrame, trial_id: str, rung: int = 2) -> pd.DataFrame:
    """`results` and what follows a search: two fresh seeds of a trial that stop at `rung`, a control of each.

    The fresh seeds and DDPM have final measurements on 50,000 samples.
    """
    original = results[(results.trial_id == trial_id) & (results.rung == rung)].iloc[0]
    more = []
    for k in (1, 2):
        own = {"seed": 1_000_000 + k, "fid": original.fid + 0.2 * k, "recorded_at": 1.8e9 + k}
        own["status"] = "complete"
        more.append(original.to_dict() | own | {"trial_id": f"{trial_id}-c{k}", "confirms": trial_id})
        more.append(
            original.to_dict()
            | own
            | {
                "trial_id": f"{trial_id}-control{k}",
                "method": "control",
                "controls": trial_id,
                "fid": original.fid + 0.1 * k,
                "memorization": original.memorization + 0.03,
            }
        )
    rows = pd.concat([results, pd.DataFrame(more)], ignore_index=True)
    final = (rows.confirms != "") | ((rows.method == "ddpm") & (rows.budget == 1))
    return rows.assign(
        final_n_samples=np.where(final, 50_000.0, np.nan),
        final_fid=(rows.fid - 2).where(final),
        final_memorization=rows.memorization.where(final),
        final_fid_se=np.where(final, 0.05, np.nan),
        final_memorization_se=np.where(final, 0.002, np.nan),
    )


def stopped_recommendation(size: SizeResults, trial_id: str, rung: int = 2, **changes: Any) -> Recommendation:
    """The training `trial_id` as the answer over all stopping points, stopped at `rung`.

    Its control is a little worse in memorization, and its final FID lower.
    """
    stops = size.over("any")
    at = stops.points[(stops.points.trial_id == trial_id) & (stops.points.rung == rung)].iloc[0]
    full = recommend(size, budget="full")
    method = size.declared.method(str(at.method))
    parameters = {name: float(at[name]) for name in method.parameter_names}

    def figures(**moved: float) -> dict[str, Spread]:
        noise = {o: float(at[f"{o.name}_sd"]) for o in size.objectives}
        return {
            o.name: spread(o, float(at[o.name]) + moved.get(o.name, 0.0), 2 * sd, sd)
            for o, sd in noise.items()
        }

    values: dict[str, Any] = {
        "budget": "any",
        "verdict": "copies-less",
        "verdict_words": "Copies less than DDPM, image quality no worse",
        "method": method.name,
        "parameters": parameters,
        "main": next(iter(parameters), ""),
        "interval": full.interval if parameters else None,
        "trial_id": str(at.trial_id),
        "images_seen": int(at.images_seen),
        "similarity_excess": float(at.similarity_mean - at.heldout_similarity_mean),
        "baseline": stops.baseline,
        "window": full.window if parameters else None,
        "early_stop": None,
        "equal_budget": OtherTraining(
            method=full.method,
            sigma_tn=full.sigma_tn or 0.0,
            parameters=full.parameters,
            images_seen=BUDGET,
            **{o.name: full[o.name].value for o in size.objectives},
        ),
        **figures(),
    }
    if parameters:
        values["gain"] = Gain(
            trials=[f"{trial_id}-control{k}" for k in (1, 2)],
            ddpm=Figures(**figures(memorization=0.08)),
            control=Figures(**figures(memorization=0.03, fid=-0.1)),
        )
    return full.model_copy(update=values | changes)


def three_objectives(rows: pd.DataFrame) -> tuple[pd.DataFrame, Declared]:
    """`rows` with a maximised share, and four trials of a method with a parameter of its own."""
    rng = np.random.default_rng(5)
    rows = rows.assign(temperature=0.0)
    ours = rows[rows.trial_id.isin([f"n300-algorithm1-{k:04d}" for k in (5, 7, 9, 11)])]
    ours = ours.assign(
        trial_id=ours.trial_id.str.replace("algorithm1", "smoothed"), method="smoothed", mix_ratio=0.0,
        temperature=ours.sigma_tn.rank(method="dense"), sigma_tn=0.0, fid=ours.fid + 0.7,
        memorization=ours.memorization / 2,
    )  # fmt: skip
    rows = pd.concat([rows, ours], ignore_index=True)
    spread = 0.9 - 0.4 * rows.memorization - 0.05 * np.log1p(rows.sigma_tn) - rng.uniform(0, 0.03, len(rows))
    rows = rows.assign(diversity=spread.where(rows.fid.notna()), diversity_se=0.004)
    declared = Declared(
        {**DECLARED.methods, "smoothed": SMOOTHED}, {**DECLARED.objectives, "diversity": DIVERSITY}
    )
    return rows, declared


def _row(
    trial_id: str,
    method: str,
    train_size: int,
    sigma: float,
    mix: float,
    seed: int,
    rung: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    share = RUNGS[rung - 1] if rung else 0.0
    worse = (300 / train_size) ** 0.4
    bend = np.log(sigma / 1.1) if sigma else -1.9
    fid = 14 * worse + 1.1 * bend**2 * (1.6 if bend > 0 else 1) + 3 * abs(mix - 0.5)
    fid = fid + 9 * (1 - share) ** 2 + rng.normal(0, 0.15)
    copies = 0.45 * worse * share**1.5 * (1 / (1 + (sigma / 0.55) ** 1.8) if sigma else 1.0)
    copies = float(np.clip(copies + 0.012 + rng.normal(0, 0.003), 0, 1))
    measured: dict[str, Any] = dict.fromkeys(SCHEMA, np.nan) if rung == 0 else {}
    return {
        "fid": float(fid), "memorization": copies, "threshold": 0.9137,
        "similarity_mean": 0.62 + 0.3 * copies, "similarity_p95": 0.8 + 0.2 * copies,
        "heldout_memorization": 0.01, "heldout_similarity_mean": 0.61, "heldout_similarity_p95": 0.81,
        "train_loss": 0.2, "train_seconds": 900 * share, "eval_seconds": 60.0,
    } | measured | {
        **dict.fromkeys(DECLARED.parameters, 0.0),
        "trial_id": trial_id, "method": method, "train_size": train_size, "sigma_tn": sigma,
        "mix_ratio": mix, "seed": seed, "rung": rung, "images_seen": int(share * BUDGET),
        "budget": share, "n_samples": 5000 if rung else 0, "status": "complete", "error": "", "confirms": "",
        "controls": "", "branched_at": 0,
    }  # fmt: skip


def packed_samples(seed: int, copies: float, channels: int = 3, count: int = 40, side: int = 16) -> bytes:
    """Smooth random pictures, some of them close to their neighbour."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, channels, 4, 4))
    neighbours = np.kron(coarse, np.ones((1, 1, side // 4, side // 4))).astype(np.uint8)
    copied = rng.random(count) < copies
    noise = rng.normal(0, np.where(copied, 6, 70)[:, None, None, None], neighbours.shape)
    samples = np.clip(neighbours + noise, 0, 255).astype(np.uint8)
    similarity = np.where(copied, rng.uniform(0.92, 0.99, count), rng.uniform(0.5, 0.9, count))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        samples=samples,
        neighbours=neighbours,
        similarity=similarity.astype(np.float32),
        copied=copied,
    )
    return buffer.getvalue()


def write_run(
    run_dir: Path,
    results: pd.DataFrame,
    config: SweepConfig,
    recommend_for: tuple[int, ...] = (),
    samples: bool = True,
    declared: Declared = DECLARED,
    budget: Budget = "any",
) -> Path:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "sweep.yaml").write_text(to_yaml(config), encoding="utf-8")
    table = pa.Table.from_pandas(results.drop(columns=LISTS), preserve_index=False)
    plain = table.column_names
    for name in LISTS:
        table = table.append_column(pa.field(name, NUMBERS), pa.array(results[name].tolist(), NUMBERS))
    table = table.replace_schema_metadata({METADATA: json.dumps(declared.to_json())})
    pq.write_table(table, run_dir / "results.parquet", use_dictionary=plain)
    environment = {
        "versions": {"pareto-amb": "0.1.0", "torch": "2.7.0", "ray": "2.50.0"},
        "hardware": {"gpu": ["NVIDIA A100 80GB"], "cpus": 32},
        "fingerprints": {"data": "sha256:3f1c" + "9a" * 30},
        "notes": ["rehearsal"],
    }
    (run_dir / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    if recommend_for:
        sizes = map(Results(results, declared).size, recommend_for)
        found = [recommend(size, budget=budget).model_dump(mode="json") for size in sizes]
        for entry in found:
            entry["training"] = {"data": {"source": "images"}, "parameters": entry["parameters"]}
        document = {"policy": "match-ddpm", "run": run_dir.name, "recommendations": found}
        (run_dir / "recommendation.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        if samples:
            for entry in found:
                _store(run_dir, f"n{entry['train_size']}-ddpm-s0", 3, packed_samples(1, 0.5))
                rung = 1 + [int(share * BUDGET) for share in RUNGS].index(entry["images_seen"])
                _store(run_dir, entry["trial_id"], rung, packed_samples(2, 0.05))
    return run_dir


def _store(run_dir: Path, trial_id: str, rung: int, content: bytes) -> None:
    path = run_dir / "samples" / trial_id / f"rung-{rung}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture(scope="session")
def make_config() -> Callable[..., SweepConfig]:
    """A sweep file's content, with some keys replaced."""
    return sweep_config


@pytest.fixture(scope="session")
def make_rows() -> Callable[[int], pd.DataFrame]:
    """A results table for one train size."""
    return sweep_rows


@pytest.fixture
def size_of() -> Callable[..., SizeResults]:
    """The results of one train size: size_of(rows, train_size=300, declared=what ships)."""

    def build(rows: pd.DataFrame, train_size: int = 300, declared: Declared = DECLARED) -> SizeResults:
        return Results(rows, declared).size(train_size)

    return build


@pytest.fixture
def three(results: pd.DataFrame) -> tuple[pd.DataFrame, Declared]:
    """A results table with a third, maximised objective and a method of a user's own; its declarations."""
    return three_objectives(results)


@pytest.fixture
def confirm() -> Callable[..., pd.DataFrame]:
    """A results table with fresh seeds of one trial."""
    return confirmed_rows


@pytest.fixture
def probed() -> Callable[..., pd.DataFrame]:
    """A results table with denoising probes, also at a rung of their own."""
    return probed_rows


@pytest.fixture
def followed() -> Callable[..., pd.DataFrame]:
    """A results table with the fresh seeds of one trial, stopped early, their controls and final figures."""
    return followed_rows


@pytest.fixture
def stopped() -> Callable[..., Recommendation]:
    """An answer that stops early."""
    return stopped_recommendation


@pytest.fixture
def make_samples() -> Callable[..., bytes]:
    """The content of a file of samples."""
    return packed_samples


@pytest.fixture
def results() -> pd.DataFrame:
    return sweep_rows(300)


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run directory: new_run(results, config=..., recommend_for=(...), samples=...)."""

    def build(results: pd.DataFrame, config: SweepConfig | None = None, **options: Any) -> Path:
        return write_run(tmp_path / "run", results, config or sweep_config(), **options)

    return build


@pytest.fixture(scope="session")
def put_run() -> Callable[..., Path]:
    """As `new_run`, into a folder of one's own: put_run(folder, results, config, ...)."""
    return write_run


@pytest.fixture
def run_dir(new_run: Callable[..., Path], results: pd.DataFrame) -> Path:
    """One train size, recommended, with pictures."""
    return new_run(results, recommend_for=(300,))


CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking "
    "--no-first-run --disable-component-update --disable-sync --window-size=1200,1000"
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A real browser, without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'browser'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(30)
    yield driver
    driver.quit()
