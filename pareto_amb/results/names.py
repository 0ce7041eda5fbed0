"""Which names methods, parameters and objectives may have."""

import re

from pareto_amb.declared import Declared
from pareto_amb.errors import UserError
from pareto_amb.results.baseline import Baseline
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.table import FINAL, columns

_OF_EXPORTS = {"training", "caution", "cautions", "verdict", "verdict_words"}
"""Keys of an entry of recommendation.yaml beside those of a recommendation."""

_OF_POINTS = {"confirmed", "p_front", "order", "mix", "number"}
"""Columns that points have beside those of the table."""


def check_names(declared: Declared) -> None:
    """Raise UserError for a name that is no plain word, or that means something else in a run's files."""
    own = [*declared.parameters, *declared.objectives]
    for name in (*declared.methods, *own):
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise UserError(f"{name!r}: a method, parameter or objective is named with letters, digits and _")
    fixed = {*columns(Declared({}, {})), *Baseline.model_fields, *_OF_POINTS}
    fixed |= _OF_EXPORTS | (Recommendation.model_fields.keys() - {"sigma_tn", "mix_ratio"})
    for name in own:
        formed = name.endswith(("_se", "_sd")) or name.startswith(FINAL)
        if name in fixed or own.count(name) > 1 or formed:
            raise UserError(f"{name}: the name is taken in the files of a run, choose another")
    for name, parameter in declared.parameters.items():
        if parameter.log and parameter.bounds[0] < 0:
            raise UserError(
                f"parameter {name}: its scale is logarithmic, so its limits must begin at 0 or above"
            )
