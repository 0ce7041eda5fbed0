"""Which trials of a finished search are worth another look with fresh seeds."""

from pareto_amb.results.policies import Candidates, MatchDDPM
from pareto_amb.results.size import SizeResults


def worth_confirming(size: SizeResults, count: int) -> list[tuple[str, int]]:
    """The `count` trials that `match-ddpm` would take first over all budgets, best first, each with its rung.

    By what the search measured; of a trial the rung alone at which it would be taken first. Those that the
    policy does not admit follow. None where no baseline has finished.
    """
    size = size.over("any")
    if not size.has_baseline:
        return []
    rows = size.rows[size.rows.method.isin(size.recommended_methods) & (size.rows.confirms == "")]
    order, _ = MatchDDPM().rank(Candidates(size.minimized(rows), size.limits[0], size.objectives))
    first = rows.iloc[order].drop_duplicates("trial_id").head(count)
    return [(str(row.trial_id), int(row.rung)) for row in first[["trial_id", "rung"]].itertuples()]
