"""Which trials of a finished search are worth another look with fresh seeds."""

from pareto_amb.results.policies import Candidates, MatchDDPM
from pareto_amb.results.size import SizeResults


def worth_confirming(size: SizeResults, count: int) -> list[str]:
    """The `count` trials that `match-ddpm` would take first, best first, by what the search measured.

    Those that it does not admit follow. None where no baseline has finished.
    """
    if not size.has_baseline:
        return []
    rows = size.full[size.full.method.isin(size.recommended_methods) & (size.full.confirms == "")]
    order, _ = MatchDDPM().rank(Candidates(size.minimized(rows), size.limits[0], size.objectives))
    return [str(trial_id) for trial_id in rows.trial_id.iloc[order[:count]]]
