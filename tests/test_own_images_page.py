"""The commands of docs/own-images.md, as written there, from a folder of images to a checked model."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

PAGE = Path(__file__).parents[1] / "docs" / "own-images.md"
SMALLER = {
    "training.images": 1280,
    "training.lr_warmup_images": 128,
    "training.ema_halflife_images": 500,
    "training.network.options.model_channels": 8,
    "sampling.steps": 3,
    "evaluation.n_samples": 32,
    "evaluation.n_shown": 4,
    "evaluation.rungs": [0.5, 1.0],
    "evaluation.probes": [],
    "search.trials": 2,
    "search.startup_trials": 1,
    "search.baseline_seeds": 2,
    "search.confirm": {"candidates": 1, "seeds": 1},
}
"""What makes the page's space small enough for a test; its train size, shape and encoders stay."""

ALL_IN_ONE_PROCESS = """
import json, sys
from pareto_amb import search_spaces
from pareto_amb.cli import main
from pareto_amb.config_file import apply_changes
from pareto_amb.search import cost

commands, smaller = map(json.loads, sys.argv[1:])
cost.MEASURED_SECONDS, read = 0.5, search_spaces._read
search_spaces._read = lambda name: apply_changes(read(name), smaller if name == "folder-cpu" else {})
for command in commands:
    sys.argv = command
    print("$", *command, flush=True)
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


def commands() -> list[list[str]]:
    """Those of the page's first section."""
    section = PAGE.read_text(encoding="utf-8").split("\n## ")[1]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_leads_from_a_folder_to_a_checked_model(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for k, digit in enumerate(load_digits().images[:240]):
        picture = Image.fromarray(np.uint8(digit * 15.9)).resize((16, 16)).convert("RGB")
        picture.save(tmp_path / "photos" / f"holiday {k}.png")
    written = commands()
    named = ["data", "doctor", "scan", "sweep", "sweep", "train", "evaluate", "data"]
    assert [command[:2] for command in written] == [["pareto-amb", name] for name in named]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, "-c", ALL_IN_ONE_PROCESS, json.dumps(written), json.dumps(SMALLER)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine.zip: 240 images of 16 x 16, no labels" in done.stdout
    assert "# measured in" in done.stdout
    assert "\n3 steps of dpmpp_2m, as recorded\n" in done.stdout
    report = (tmp_path / "runs" / "mine" / "report.html").read_text(encoding="utf-8")
    assert "<h1>mine</h1>" in report
    assert "240 images of mine.zip, 16×16 pixels; 200 are trained on" in report
    found = json.loads((tmp_path / "checked" / "evaluation.json").read_text())
    assert {role: images["count"] for role, images in found["images"].items()} == {
        "generated": 32, "train": 200, "heldout": 40
    }  # fmt: skip
    assert not any("threshold of the run" in note for note in found["notes"])
    assert "holiday " in (tmp_path / "checked" / "evaluation.html").read_text(encoding="utf-8")
    assert (tmp_path / "unseen.zip").is_file()
