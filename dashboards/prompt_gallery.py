"""What each method makes of the same captions: a row a caption, a column a training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pareto_amb.dashboards import theme
from pareto_amb.dashboards.answer import images_and_share, stop_of, training_words
from pareto_amb.dashboards.gallery import Samples, data_uri, read_samples, shortened
from pareto_amb.dashboards.looks import look
from pareto_amb.dashboards.page import PICTURE_BYTES
from pareto_amb.dashboards.wording import called
from pareto_amb.declared import BASELINE
from pareto_amb.errors import UserError
from pareto_amb.results.recommend import best_of_methods
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.run import Run
from pareto_amb.results.size import SizeResults
from pareto_amb.results.words import joined

FIRST, CLOSEST = 3, 3
"""Captions shown: the first ones as they came, and those whose samples of DDPM are closest to an image."""


@dataclass(frozen=True)
class Column:
    """A training and where it stops."""

    heading: str
    note: str
    colour: str
    trial_id: str


@dataclass(frozen=True)
class Cell:
    """A sample by a row's caption: a data URI, and how similar it is to its nearest training image."""

    image: str
    similarity: float
    copied: bool


@dataclass(frozen=True)
class PromptRow:
    """A caption, its training image as a data URI, empty where that was not kept, and a cell a column."""

    caption: str
    image: str
    cells: list[Cell]


@dataclass(frozen=True)
class PromptGallery:
    """The whole table, or why there is none. `about` says which trainings and captions are shown."""

    about: str = ""
    columns: list[Column] = field(default_factory=list)
    rows: list[PromptRow] = field(default_factory=list)
    missing: str = ""


def pictures_of(size: SizeResults) -> int:
    """How many pictures the gallery of a train size has, about; 0 for a model without captions."""
    if "caption_detection_auc" not in size.frame:
        return 0
    return (FIRST + CLOSEST) * (3 + int(size.frame.method.nunique()))


def prompt_gallery(
    run: Run, size: SizeResults, found: Recommendation | None, limit: int = PICTURE_BYTES
) -> PromptGallery | None:
    """The gallery of a train size, a picture at most `limit` bytes; None where there is nothing to compare.

    Raises UserError naming the file when samples cannot be read.
    """
    if found is None or run.pictures is None or not pictures_of(size):
        return None
    try:
        columns = list(_columns(size, found))
    except UserError as error:
        return PromptGallery(missing=f"No training can be taken for each method: {error}.")
    read = [(column, read_samples(run.pictures, column.trial_id, rung)) for column, rung in columns]
    kept = {column: stored for column, stored in read if stored is not None and stored.prompts is not None}
    shown = _shown(list(kept.values()))
    if not shown:
        return PromptGallery(missing="No pictures by the same captions were kept of these trainings.")
    rows = [_row(place, list(kept.values()), limit) for place in shown]
    lacking = [f"{column.heading} {column.note}" for column, _ in read if column not in kept]
    note = f" No such pictures were kept of {joined(lacking)}." if lacking else ""
    return PromptGallery(f"{_about(found, next(iter(kept)), len(rows))}{note}", list(kept), rows)


def _about(found: Recommendation, first: Column, n_rows: int) -> str:
    among = "all its stopping points" if found.budget == "any" else "its full trainings"
    picked = ""
    if n_rows > FIRST:
        picked = (
            f", then {n_rows - FIRST} picked because what {first.heading} {first.note} makes of them is most "
            "similar to a training image: they show more copies of it than there are"
        )
    return (
        f"The first {min(n_rows, FIRST)} captions{picked}. DDPM, and of each other method the training that "
        f"the policy {found.policy} ranks first among {among}. The samples of a row were begun with the same "
        "noise."
    )


def _columns(size: SizeResults, found: Recommendation) -> Iterator[tuple[Column, int]]:
    """The trainings that are compared, each with the rung that it stops at; DDPM first."""
    ddpm = size.anytime[(size.anytime.method == BASELINE) & (size.anytime.confirms == "")].sort_values("seed")
    stops = {size.full_images, stop_of(found.baseline, size)}
    if found.method == BASELINE:
        stops.add(stop_of(found, size))
    for images in sorted(stops, reverse=True):
        there = ddpm[ddpm.images_seen == images]
        if len(there):
            yield _column(size, found, there.iloc[0]), int(there.rung.iloc[0])
    for point in best_of_methods(size, found):
        behind = size.over(found.budget).behind(point)
        yield _column(size, found, behind.iloc[0]), int(behind.rung.iloc[0])


def _column(size: SizeResults, found: Recommendation, row: "pd.Series[Any]") -> Column:
    drawn, method = look(size.declared, str(row.method)), size.declared.method(str(row.method))
    parameters = {name: float(row[name]) for name in method.parameter_names}
    colour = theme.DDPM if row.method == BASELINE else drawn.colour
    heading, note = drawn.label, f"after {images_and_share(int(row.images_seen), size)}"
    if parameters:
        note = f"{training_words(size.declared, method.name, parameters)}, {note}"
    if row.method == found.method and row.images_seen == stop_of(found, size):
        heading, colour = f"{called(found)}: {heading}", theme.RECOMMENDED
    return Column(heading, note, colour, str(row.trial_id))


def _shown(samples: Sequence[Samples]) -> list[int]:
    """The places of the samples that are shown: those by the first captions, then DDPM's closest others."""
    if not samples:
        return []
    prompts = [each.prompts[: each.first] for each in samples if each.prompts is not None]
    common = min(map(len, prompts))
    same = [k for k in range(common) if len({str(each[k]) for each in prompts}) == 1]
    _, once = np.unique(prompts[0][same], return_index=True)
    distinct = [same[k] for k in sorted(once)]
    closest = sorted(distinct[FIRST:], key=lambda k: -float(np.nan_to_num(samples[0].similarity[k], nan=-1)))
    return distinct[:FIRST] + closest[:CLOSEST]


def _row(place: int, samples: Sequence[Samples], limit: int) -> PromptRow:
    asked = next((each.asked[place] for each in samples if each.asked is not None), None)
    cells = [
        Cell(data_uri(each.samples[place], limit), float(each.similarity[place]), bool(each.copied[place]))
        for each in samples
    ]
    (caption, *_) = (shortened(each.prompts[place]) for each in samples if each.prompts is not None)
    return PromptRow(caption, "" if asked is None else data_uri(asked, limit), cells)
