"""`evaluate`: what was copied, in anyone's images."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_amb import weights
from pareto_amb.commands.image_options import NoCache, Preprocessing, SkipCorrupt
from pareto_amb.commands.options import Redact, complete_encoder, must_exist
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.reading import is_there
from pareto_amb.storage import check_folder

if TYPE_CHECKING:
    from rich.console import Console

    from pareto_amb.evaluation.gate import Gate
    from pareto_amb.evaluation.report import EvaluationReport

_FEATURES = (".npz", ".safetensors")
"""Suffixes of files of features, of which more is to be said."""

Generated = Annotated[
    Path | None, typer.Option(metavar="DIR|ZIP", help="The images to judge.", show_default=False)
]
Train = Annotated[
    Path | None, typer.Option(metavar="DIR|ZIP", help="What the model was trained on.", show_default=False)
]
RunDir = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN_DIR",
        help="A run of sweep, in the place of --train and --heldout: its images, encoders and threshold.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|DIR",
        help="With --run, in the place of --generated: draw the images from this checkpoint, or the one in "
        "the folder of a training, as the sweep did.",
    ),
]
TrainSize = Annotated[
    int | None, typer.Option(help="With --run: what was trained on, where the run has several sizes.")
]
Count = Annotated[
    int | None,
    typer.Option(min=2, max=1_000_000, help="With --checkpoint: how many images. Default: as in the run."),
]
Heldout = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|ZIP",
        help="Real images of the same kind that the model never saw: the yardstick. Without them it "
        "cannot be said what is normal. A few hundred or more.",
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|ZIP|STATS.npz",
        help="Real images that quality (FID ...) is measured against, or their features from "
        "`encode`, or an npz with mu and sigma. Default: --heldout, else --train.",
    ),
]
Encoders = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder",
        metavar="NAME",
        autocompletion=complete_encoder,
        help="The network that compares images; may be repeated. The first gives the verdict. "
        "Default: dinov2_vitg14 and inception_v3, as in the paper. efficientnet_lite0 needs no "
        "download and is quick without a GPU; auto is the best whose weights are here.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="Similarity above which an image is a copy, in the first encoder. Default: the value "
        "that 1% of the held-out images exceed.",
    ),
]
Captions = Annotated[
    str | None,
    typer.Option(
        metavar="auto|FILE",
        help="Also say which captions trigger copies. auto: those beside the generated images, in "
        "metadata.jsonl, dataset.json or text files; FILE: lines as in metadata.jsonl. Captions of the "
        "training images are read where they have any.",
    ),
]
ClipModel = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|NAME",
        help="With --captions: the CLIP model that scores the generated images by their captions, a folder "
        "or a name of the hub such as openai/clip-vit-base-patch32. Default: none.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for evaluation.json and evaluation.html. Default: evaluations/NAME-TIME.",
    ),
]
FailAbove = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="The gate: pass only when the excess copy rate is not above this even at the high end of its "
        "95% interval, fail when it is above it even at the low end. 0.05, for example.",
    ),
]
FailOnIdentical = Annotated[
    bool | None,
    typer.Option(
        "--fail-on-identical/--no-fail-on-identical",
        help="The gate: fail when any generated image has exactly the pixels of a training image, whatever "
        "the limit. On with --fail-above; alone it is a gate of its own.",
        show_default=False,
    ),
]
RequireConclusive = Annotated[
    bool, typer.Option(help="The gate: count inconclusive as failed, exit code 1 in place of 3.")
]


def evaluate(
    generated: Generated = None,
    train: Train = None,
    heldout: Heldout = None,
    reference: Reference = None,
    run: RunDir = None,
    checkpoint: Checkpoint = None,
    train_size: TrainSize = None,
    count: Count = None,
    encoder: Encoders = None,
    preprocessing: Preprocessing = "standard",
    threshold: Threshold = None,
    captions: Captions = None,
    clip_model: ClipModel = None,
    output: Output = None,
    fail_above: FailAbove = None,
    fail_on_identical: FailOnIdentical = None,
    require_conclusive: RequireConclusive = False,
    skip_corrupt: SkipCorrupt = False,
    no_cache: NoCache = False,
    redact: Redact = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws resamples and random subsets.")] = 0,
) -> None:
    """Did it copy? Measure any generated images against the images a model was trained on.

    pareto-amb evaluate --generated gen/ --train train/ --heldout unseen/

    pareto-amb evaluate --run RUN_DIR --checkpoint RUN_DIR/training

    Tells how many generated images are copies of training images, how sure that is, and what is normal
    for images the model never saw; also FID, KID, precision and recall. Prints a table and writes
    evaluation.json and evaluation.html. All images must have one size (see: data prepare).

    With --fail-above or --fail-on-identical it is a gate for releases. Exit codes: 0 passed, or no gate;
    1 failed; 2 the input cannot be used; 3 inconclusive: too few images, none held out, or generated images
    so unlike real ones that few copies among them say nothing.
    """
    gated = _check_gate(fail_above, fail_on_identical, require_conclusive)
    given = {"--train": train, "--heldout": heldout, "--reference": reference, "--encoder": encoder,
             "--threshold": threshold, "--captions": captions, "--clip-model": clip_model}  # fmt: skip
    _check_sources(generated, run, checkpoint, given, train_size, count)
    names = _encoder_names(encoder) if run is None else []
    for name in weights.names_of(names):
        weights.check_reachable(name)
    from pareto_amb.evaluation.features import FeatureCache
    from pareto_amb.evaluation.gate import judge
    from pareto_amb.terminal import make_console

    folder = output or _folder(generated or checkpoint)
    check_folder(folder)
    console, cache = make_console(), None if no_cache else FeatureCache.default()
    if run is not None:
        from pareto_amb.checking import check_run
        from pareto_amb.results.run_directory import RunDirectory

        report = check_run(
            RunDirectory(run), generated, checkpoint, train_size=train_size, count=count,
            skip_corrupt=skip_corrupt, seed=seed, cache=cache, console=console,
        )  # fmt: skip
    else:
        from pareto_amb.evaluation.image_sets import evaluate_image_sets

        assert generated is not None
        assert train is not None
        report = evaluate_image_sets(
            generated, train, heldout, reference, names, threshold, preprocessing, seed,
            captions=captions, clip_model=clip_model, skip_corrupt=skip_corrupt, cache=cache, console=console,
        )  # fmt: skip
    gate = None
    if gated:
        identical = fail_on_identical is not False
        gate = judge(report, fail_above, fail_on_identical=identical, require_conclusive=require_conclusive)
    _write(report, gate, folder, redact)
    _print(report, folder, console)
    if gate is not None:
        print(gate)
        raise typer.Exit(gate.exit_code)


def _check_sources(
    generated: Path | None,
    run: Path | None,
    checkpoint: Path | None,
    given: Mapping[str, object],
    train_size: int | None,
    count: int | None,
) -> None:
    """Raise UserError where it is not clear what is judged against what, or nothing is there."""
    if run is None:
        if checkpoint is not None or train_size is not None or count is not None:
            raise UserError("--checkpoint, --train-size and --count go with --run RUN_DIR")
        if generated is None or given["--train"] is None:
            raise UserError("give --generated and --train, or --run RUN_DIR with --generated or --checkpoint")
    else:
        brought = [option for option, value in given.items() if value is not None]
        if brought:
            raise UserError(f"--run brings its own images, encoders and threshold: leave out {brought[0]}")
        if (generated is None) == (checkpoint is None):
            raise UserError("--run RUN_DIR needs either --generated or --checkpoint")
        if count is not None and checkpoint is None:
            raise UserError("--count is the number of images to draw: it goes with --checkpoint")
    images = [generated, *(given[option] for option in ("--train", "--heldout", "--reference"))]
    for path in (path for path in images if isinstance(path, Path)):
        if not is_there(path) and path.suffix not in _FEATURES:
            raise UserError(f"{str(path)!r}: nothing there; name a folder or zip of images")
    for path in filter(None, (run, checkpoint)):
        must_exist(path)


def _encoder_names(wanted: list[str] | None) -> list[str]:
    """The encoders to compare in; by default those of a sweep, and what `auto` stands for."""
    from pareto_amb.config import EvaluationConfig

    default = EvaluationConfig()
    names = wanted or [default.similarity_encoder, default.fid_encoder]
    found = []
    for name in names:
        found += [weights.best(key) for key in reversed(weights.BEST)] if name == weights.AUTO else [name]
    return list(dict.fromkeys(found))


def _folder(judged: Path | None) -> Path:
    assert judged is not None
    return Path("evaluations") / f"{judged.resolve().stem}-{datetime.now():%Y%m%d-%H%M%S}"


def _check_gate(fail_above: float | None, fail_on_identical: bool | None, require_conclusive: bool) -> bool:
    """Whether a gate is asked for; UserError where it cannot be meant."""
    if fail_above is not None:
        from pareto_amb.evaluation.gate import check_limit

        check_limit(fail_above, "--fail-above")
    gated = fail_above is not None or bool(fail_on_identical)
    if fail_on_identical is False and fail_above is None:
        raise UserError("--no-fail-on-identical is no gate by itself: give --fail-above")
    if require_conclusive and not gated:
        raise UserError("--require-conclusive needs a gate: give --fail-above or --fail-on-identical")
    return gated


def _write(report: "EvaluationReport", gate: "Gate | None", folder: Path, redact: bool) -> None:
    from pareto_amb.dashboards.evaluation import write_page
    from pareto_amb.dashboards.provenance import checksum
    from pareto_amb.evaluation.report import to_json
    from pareto_amb.redaction import redact_values, without_paths
    from pareto_amb.storage import write_text

    try:
        found = to_json(report, gate)
        text = json.dumps(redact_values(found, without_paths) if redact else found, indent=2)
        write_text(folder / "evaluation.json", text + "\n")
        results = [checksum(folder / "evaluation.json")]
        write_page(report, folder / "evaluation.html", gate, results, redact)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({reason(error)})") from error


def _print(report: "EvaluationReport", folder: Path, console: "Console") -> None:
    from pareto_amb.evaluation.report import remarks, tables, verdict

    for table in tables(report):
        console.print(table)
    for note in remarks(report):
        console.print(f"note: {printable(note)}", markup=False)
    page = printable(folder / "evaluation.html")
    console.print(f"\n{verdict(report)}\n\nnext:\n  open {page}", markup=False)
