"""Which trainings of a finished search are worth another look with fresh seeds."""

from pareto_amb.declared import BASELINE
from pareto_amb.results.policies import Candidates, MatchDDPM
from pareto_amb.results.size import SizeResults
from pareto_amb.results.table import searched


def worth_confirming(size: SizeResults, count: int) -> list[tuple[str, int]]:
    """The `count` trainings that `match-ddpm` would take first, best first: a trial and a rung to end with.

    All stopping points compete by what the search measured, DDPM's apart; a trial is named once. Those that
    the policy does not admit follow. None where no baseline has finished.
    """
    if not size.has_baseline:
        return []
    rows = searched(size.anytime)
    recommended = [str(name) for name in rows.method.unique() if size.declared.method(str(name)).recommended]
    rows = rows[rows.method.isin(recommended) & (rows.method != BASELINE)]
    order, _ = MatchDDPM().rank(Candidates(size.minimized(rows), size.limits[0], size.objectives))
    best = rows.iloc[order].drop_duplicates("trial_id")
    return [(str(row.trial_id), int(row.rung)) for row in best.head(count).itertuples()]
