"""The tables below the figures: what a gain is made of, and what was measured again on more samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pareto_amb.config import SweepConfig
from pareto_amb.dashboards import theme
from pareto_amb.dashboards.answer import images_and_share, stop_of
from pareto_amb.dashboards.formats import change, copying_first, count, figure, interval
from pareto_amb.dashboards.looks import look
from pareto_amb.dashboards.wording import called, what_it_is
from pareto_amb.declared import Objective
from pareto_amb.results.baseline import Figures
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.size import SizeResults
from pareto_amb.results.words import capitalized, gained, joined, seeds, without_copies


@dataclass(frozen=True)
class Cell:
    """A figure, its interval, and how far it lies from the row above; empty where there is none."""

    value: str
    interval: str
    change: str = ""


@dataclass(frozen=True)
class Row:
    """A training: what it is, and its cells in the order of the table's objectives."""

    name: str
    note: str
    colour: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """One table of a train size, or why there is none. `heads` are objectives with a few words about each."""

    title: str
    caption: str = ""
    heads: list[tuple[str, str]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: str = ""


def tables(found: Recommendation | None, size: SizeResults, config: SweepConfig) -> list[Table]:
    """The tables of a train size, in the order of the page."""
    if found is None:
        return []
    made = (_gain(found, size), _final(found, size, config))
    return [table for table in made if table is not None]


# --- what the gain is made of ---------------------------------------------------------------------

GAIN = "What the gain is made of"


def _gain(found: Recommendation, size: SizeResults) -> Table | None:
    """DDPM, then the noise levels alone, then the noisy copies; None where there is no gain to be split."""
    method = size.declared.method(found.method)
    if found.gain is None:
        untested = [c.sentence for c in found.cautions if c.word == "control-untested"]
        return Table(GAIN, missing=f"{capitalized(untested[0])}.") if untested else None
    gain, objectives = found.gain, copying_first(size.objectives)
    control, n_seeds = look(size.declared, method.control), seeds(len(gain.trials))
    steps = [
        ("DDPM", "stopped at the same point", theme.DDPM, gain.ddpm),
        (
            f"+ {without_copies(gain)}",
            f"{control.label}, {n_seeds}",
            control.colour,
            gain.control,
        ),
        ("+ the noisy copies", f"{method.label}: {called(found).lower()}", theme.RECOMMENDED, found),
    ]
    rows, before = [], None
    for name, note, colour, figures in steps:
        rows.append(Row(name, note, colour, _cells(figures, objectives, before)))
        before = figures
    also = f", with the same {joined(gain.beside)}" if gain.beside else ""
    caption = (
        f"Three trainings, each stopped after {images_and_share(stop_of(found, size), size)}. {method.label} "
        "trains at other noise levels than DDPM, and on noisy copies at some of them; its control sees clean "
        f"images at the very same levels{also}. Beside each figure its change from the row above, below it "
        "the interval of 95%; changes of shares are in percentage points."
    )
    return Table(
        GAIN, caption, _heads(objectives), rows, [f"{capitalized(gained(gain, found, size.objectives))}."]
    )


# --- measured again -------------------------------------------------------------------------------


def _final(found: Recommendation, size: SizeResults, config: SweepConfig) -> Table | None:
    """The final measurement beside DDPM's; None where none was asked for."""
    final, asked = found.final, config.evaluation.final_samples
    if final is None:
        if asked is None:
            return None
        title = f"Measured again on {count(asked)} samples"
        return Table(title, missing="This training has not been measured again (evaluation.final_samples).")
    objectives = copying_first(size.objectives)
    stop = f"after {images_and_share(stop_of(found, size), size)}"
    rows = [Row(called(found), stop, theme.RECOMMENDED, _cells(final.training, objectives))]
    if final.ddpm is not None:
        rows.append(Row("DDPM", "at full budget", theme.DDPM, _cells(final.ddpm, objectives)))
    caption = (
        f"The final figures, each on {count(final.n_samples)} samples. FID depends on their number: hold "
        "these against each other and against published figures on as many samples, not against those above."
    )
    notes = [] if final.ddpm is not None else ["DDPM has not been measured again."]
    title = f"Measured again on {count(final.n_samples)} samples"
    return Table(title, caption, _heads(objectives), rows, notes)


def _heads(objectives: Sequence[Objective]) -> list[tuple[str, str]]:
    return [(capitalized(o.label), what_it_is(o)) for o in objectives]


def _cells(figures: Figures, objectives: Sequence[Objective], before: Figures | None = None) -> list[Cell]:
    cells = []
    for o in objectives:
        spread = figures[o.name]
        moved = "" if before is None else change(o, spread.value - before[o.name].value)
        cells.append(Cell(figure(o, spread.value), interval(o, spread), moved))
    return cells
