"""The report of a run: one self-contained HTML file for people who were not there."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from pareto_amb.dashboards import formats, wording
from pareto_amb.dashboards.answer import Answer, answer, stop_of
from pareto_amb.dashboards.formats import count
from pareto_amb.dashboards.gallery import SHOWN, Gallery, build_gallery, read_samples
from pareto_amb.dashboards.limits import limits_of_report
from pareto_amb.dashboards.marks import recommended_value
from pareto_amb.dashboards.method import facts, subject
from pareto_amb.dashboards.page import picture_bytes, render_page
from pareto_amb.dashboards.plots import Plot, draw_plots, took_part
from pareto_amb.dashboards.prompt_gallery import PromptGallery, pictures_of, prompt_gallery
from pareto_amb.dashboards.prompt_table import prompt_table
from pareto_amb.dashboards.provenance import checksum, duration_of, provenance, remaining
from pareto_amb.dashboards.published import compare
from pareto_amb.dashboards.tables import Table, tables
from pareto_amb.dashboards.trials import columns, is_answer, trial_rows, what_became
from pareto_amb.declared import BASELINE
from pareto_amb.errors import UserError
from pareto_amb.redaction import redact
from pareto_amb.results.recommend import recommend
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.run import Run
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.size import SizeResults
from pareto_amb.storage import write_text

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Pictures:
    """The gallery of one training, or why there is none."""

    heading: str
    tone: str
    gallery: Gallery | None = None
    missing: str = ""
    trial_id: str = ""


@dataclass(frozen=True)
class Section:
    """Everything the report shows of one train size."""

    train_size: int
    recommendation: Recommendation | None
    missing: str
    answer: Answer | None = None
    heldout: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Pictures] = field(default_factory=list)
    prompts: PromptGallery | None = None


def write_report(run_dir: Path, trust: bool = False, redacted: bool = False) -> Path:
    """Write RUN_DIR/report.html from the files of the run and return its path.

    Pictures in a storage elsewhere are fetched where the run is to `trust`; nothing else is ever contacted.
    A `redacted` page has no paths of the machine that the run was made on.

    Raises UserError naming the file when the sweep file or results table is missing, or when a file
    of the run is there but cannot be used. A run that has finished nothing still gets a report.
    """
    path = RunDirectory(run_dir).report
    write_text(path, render(Run.read(run_dir, trust), redacted))
    return path


def render(run: Run, redacted: bool = False) -> str:
    """The page as text."""
    sections = [_section(run, size) for size in run.train_sizes()]
    drawn = any(plot.spec is not None for section in sections for plot in section.plots)
    trials, declared, found = trial_rows(run.results), run.results.declared, run.recommendations or {}
    environment = dict(run.environment)
    parameters = {
        parameter.name: parameter
        for method in took_part(run.config, declared, run.results.frame)
        for parameter in method.parameters
    }
    return render_page(
        TEMPLATE,
        drawn,
        redacted,
        run=run,
        subject=subject(run),
        declared=declared,
        objectives=run.results.objectives,
        parameters=parameters,
        sections=sections,
        trials=trials,
        is_answer=lambda row: is_answer(row, found.get(row["train_size"])),
        became=lambda row: what_became(
            row, found.get(row["train_size"]), run.results.size(row["train_size"])
        ),
        columns=columns(trials, declared, parameters.values(), len(sections) > 1),
        statuses=statuses(run.results.frame),
        facts=facts(run),
        limits=_limits(run),
        provenance=provenance(environment, duration_of(run.frame), [checksum(run.directory.results)]),
        environment=remaining(environment),
        w=wording,
        f=formats,
    )


def _limits(run: Run) -> list[str]:
    evaluation, measured = run.config.evaluation, run.frame.n_samples[run.frame.n_samples > 0]
    heldout = bool(run.frame.heldout_memorization.notna().any())
    fewest = int(measured.min()) if len(measured) else evaluation.n_samples
    return limits_of_report(fewest, evaluation.similarity_encoder, evaluation.fid_encoder, heldout)


def statuses(rows: pd.DataFrame) -> str:
    """How many trainings there are, and how many of each status."""
    counts = rows.drop_duplicates("trial_id").status.value_counts()
    order = [name for name in ("complete", "paused", "running", "interrupted", "failed") if name in counts]
    if not order:
        return "no trial yet"
    total = int(counts.sum())
    noun = "training" if total == 1 else "trainings"
    return f"{total} {noun}: " + ", ".join(f"{counts[name]} {name}" for name in order)


def _section(run: Run, train_size: int) -> Section:
    size, recommendation = run.results.size(train_size), (run.recommendations or {}).get(train_size)
    section = build_section(run, size, recommendation, "" if recommendation else _why_none(run, size))
    prompts = prompt_gallery(run, size, recommendation, _picture_limit(run))
    return replace(section, pictures=_all_pictures(run, size, recommendation), prompts=prompts)


def _picture_limit(run: Run) -> int:
    """What a picture of the page may take."""
    return picture_bytes(sum(2 * SHOWN + pictures_of(run.results.size(size)) for size in run.train_sizes()))


def build_section(
    run: Run, size: SizeResults, recommendation: Recommendation | None, missing: str
) -> Section:
    """What is shown of a train size, but for pictures; `missing` says why there is no recommendation."""
    return Section(
        train_size=size.train_size,
        recommendation=recommendation,
        missing=missing,
        answer=answer(recommendation, size) if recommendation else None,
        heldout=_heldout(size),
        notes=_notes(size, recommendation) if recommendation else [],
        plots=draw_plots(size, run.config, recommendation, compare(run.config, dict(run.environment), size)),
        tables=[*tables(recommendation, size, run.config), *filter(None, [prompt_table(size, run.config)])],
    )


def _heldout(size: SizeResults) -> dict[str, float]:
    """What held-out images reach in each objective that was measured for them."""
    columns = {o.name: f"heldout_{o.name}" for o in size.objectives}
    means = {name: float(size.full[column].mean()) for name, column in columns.items() if column in size.full}
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}


def _notes(size: SizeResults, recommendation: Recommendation) -> list[str]:
    notes = [
        wording.yardstick(recommendation),
        wording.confirmation(recommendation, size.objectives),
        wording.sureness(recommendation, size.declared),
        wording.window(recommendation, size),
        wording.early_stopping(size, recommendation),
        wording.rivals(size, recommendation),
        wording.noise_of_baseline(recommendation),
    ]
    return [note for note in notes if note]


def _why_none(run: Run, size: SizeResults) -> str:
    """Why a train size has no recommendation: not asked for yet, or not possible."""
    try:
        recommend(size)
    except UserError as error:
        reason = str(error).removeprefix(f"train size {size.train_size}: ")
        return f"No recommendation yet: {reason}."
    if run.recommendations is None:
        return (
            "No recommendation yet: the run has no recommendation.yaml. Its trials suffice for "
            "one: run pareto-amb recommend on this run directory and write the report again."
        )
    return "No recommendation yet: recommendation.yaml does not cover this train size."


def _all_pictures(run: Run, size: SizeResults, recommendation: Recommendation | None) -> list[Pictures]:
    measured = size.frame[size.frame.n_samples > 0]
    baseline = measured[measured.method == BASELINE].sort_values(["seed", "rung"])
    seeds = baseline[baseline.seed == baseline.seed.min()]
    heading, chosen = "DDPM", measured.iloc[:0]
    if recommendation is not None:
        chosen = measured[measured.trial_id == recommendation.trial_id].sort_values("rung")
        chosen = chosen[chosen.images_seen <= stop_of(recommendation, size)] if len(chosen) else chosen
        if recommendation.method == BASELINE and len(seeds):
            heading = f"DDPM after {count(int(seeds.images_seen.iloc[-1]))} images"
    shown = []
    if seeds.empty or not chosen.index[-1:].equals(seeds.index[-1:]):
        shown = [_pictures(run, seeds, heading, "ddpm", "No DDPM baseline has been measured yet.")]
    if recommendation is not None:
        heading = f"{wording.called(recommendation)}, {recommended_value(size, recommendation)}"
        gone = f"The recommended trial {recommendation.trial_id} is not in the results table."
        shown.append(_pictures(run, chosen, heading, "recommended", gone))
    return shown


def _pictures(run: Run, rows: pd.DataFrame, heading: str, tone: str, none: str) -> Pictures:
    if rows.empty:
        return Pictures(heading, tone, missing=none)
    trial_id, rung = str(rows.trial_id.iloc[-1]), int(rows.rung.iloc[-1])
    heading = f"{heading} · {trial_id}, rung {rung}"
    if run.pictures is None:
        where = redact(run.directory.storage_uri(run.config))
        why = f"The pictures lie in {where}; write the report with --trust-run to fetch them."
        return Pictures(heading, tone, missing=why, trial_id=trial_id)
    stored = read_samples(run.pictures, trial_id, rung)
    if stored is None:
        return Pictures(heading, tone, missing="No pictures were kept of this training.", trial_id=trial_id)
    total = int(rows.n_samples.iloc[-1])
    share = float(rows.memorization.iloc[-1])
    copies = round(share * total) if math.isfinite(share) else None
    gallery = build_gallery(stored, total, copies, _picture_limit(run))
    return Pictures(heading, tone, gallery, trial_id=trial_id)
