"""What fitting a rare training point is worth (Theorem 4.3, Lemmas A.2 and A.3; Feldman 2020).

A population has N subpopulations of frequencies alpha_1 .. alpha_N, which sum to 1 and are themselves
random. Of n training points, some subpopulations have none, some one, some many. Expectations E are over a
subpopulation chosen evenly among the N, and over the draws of the frequencies. Functions take them as
`frequencies`, (N,) for one draw or (draws, N), each row of sum 1.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, xlog1py, xlogy

from pareto_amb.errors import UserError
from pareto_amb.randomness import derive_seed


def draw_frequencies(
    prior: ArrayLike, n_subpopulations: int, draws: int, seed: int = 0
) -> NDArray[np.float64]:
    """Frequencies of subpopulations by Feldman's model: (draws, n_subpopulations).

    Each subpopulation takes one of the positive numbers `prior`, (P,), evenly and with replacement; those of
    a row are then divided by their sum.

    Raises UserError for a prior that is empty or holds a number that is not positive and finite.
    """
    values = np.asarray(prior, dtype=np.float64)
    if values.ndim != 1 or not values.size or not (np.isfinite(values) & (values > 0)).all():
        raise UserError("prior: a list of positive, finite numbers is needed")
    generator = np.random.default_rng(derive_seed(seed, "frequencies"))
    drawn = generator.choice(values, (draws, n_subpopulations))
    return np.asarray(drawn / drawn.sum(axis=1, keepdims=True))


def tau(frequencies: ArrayLike, n: int, ell: int = 1) -> float:
    """The expected frequency of a subpopulation that `ell` of `n` training points are from (Theorem A.1).

    tau_l = E[alpha^(l+1) (1 - alpha)^(n-l)] / E[alpha^l (1 - alpha)^(n-l)], in logarithms, so that neither n
    nor l can overflow it. NaN where no subpopulation can occur `ell` times.

    Raises UserError for frequencies that are no frequencies, or `ell` outside 0 to `n`.
    """
    alpha = _checked(frequencies)
    if not 0 <= ell <= n:
        raise UserError(f"ell: {ell} of {n} training points is not possible; it lies from 0 to {n}")
    rest = xlog1py(n - ell, -alpha)
    occurs = logsumexp(xlogy(ell, alpha) + rest)
    if np.isneginf(occurs):
        return float("nan")
    return float(np.exp(logsumexp(xlogy(ell + 1, alpha) + rest) - occurs))


def weight(frequencies: ArrayLike, low: float, high: float) -> float:
    """The expected share of the population in subpopulations of frequency `low` to `high`, both included.

    weight(pi, I) = N * E[alpha * 1{alpha in I}]. Raises UserError for frequencies that are no frequencies.
    """
    alpha = np.atleast_2d(_checked(frequencies))
    return float((alpha * ((low <= alpha) & (alpha <= high))).sum(axis=1).mean())


def tau_1_lower(share: float, n: int, low: float, high: float) -> float:
    """A lower bound of tau_1 where the frequencies `low` to `high` have the weight `share` (Lemma A.2).

    share * min(u(low), u(high)) with u(alpha) = alpha (1 - alpha)^(n-1), which rises up to alpha = 1/n and
    falls from there on. On [1/2n, 1/n] it is at least share / (2 sqrt(e) n), and on Feldman's [1/3n, 2/n] at
    least share / (5 n), for n >= 3.

    Raises UserError for a share or ends outside 0 to 1.
    """
    if not (0 <= share <= 1 and 0 <= low <= high <= 1):
        raise UserError(f"tau_1_lower: share {share:.3g} and {low:.3g} to {high:.3g} must lie within 0 to 1")
    ends = np.array([low, high])
    return share * float(np.exp(xlogy(1, ends) + xlog1py(n - 1, -ends)).min())


def tau_1_upper(share: float, n: int, low: float, high: float) -> float:
    """An upper bound of tau_1 where no frequency lies between `low` and `high` >= 1/n (Lemma A.3).

    low + (1 / share - 1) * high * ((1 - high) / (1 - low))^(n-1), where `share` is the weight of [0, low].
    With low = theta <= 1/2n and high = (2 - ln(theta * share)) / n it is at most 2 theta, as Feldman states.

    Raises UserError where `high` is below 1/n or `share` is 0: then the gap bounds nothing.
    """
    if not (0 < share <= 1 and 0 <= low <= high and low < 1 <= high * n):
        raise UserError(
            f"tau_1_upper: needs weight below the gap and a gap that ends at 1/n = {1 / n:.3g} or above, "
            f"not weight {share:.3g} and {low:.3g} to {high:.3g}"
        )
    if high > 1:
        return low
    ratio = float(np.exp(xlog1py(n - 1, -high) - xlog1py(n - 1, -low)))
    return low + (1 / share - 1) * high * ratio


def expected_error(frequencies: ArrayLike, counts: ArrayLike, errors: ArrayLike) -> float:
    """The expected error on the population of a learner, from its errors by subpopulation (Theorem 4.3).

    `counts` (K,) says how many training points each subpopulation has, those with none included; they sum to
    n. `errors` (K,) is the learner's error on each. A subpopulation seen l times weighs tau_l:
    sum_l tau_l * errn(l), where errn(l) sums the errors over those that are seen l times. The part of l >= 1
    is the price of not fitting the training points, the theorem's excess over the best learner.

    Raises UserError for frequencies that are no frequencies, or counts and errors that do not fit together.
    """
    seen, wrong = np.asarray(counts, dtype=np.int64), np.asarray(errors, dtype=np.float64)
    if seen.ndim != 1 or seen.shape != wrong.shape or (seen < 0).any():
        raise UserError(f"counts: one per error is needed, none below 0; got {seen.shape} and {wrong.shape}")
    n = int(seen.sum())
    times, which = np.unique(seen, return_inverse=True)
    taus = np.array([tau(frequencies, n, int(ell)) for ell in times])
    return float(taus @ np.bincount(which, weights=wrong))


def _checked(frequencies: ArrayLike) -> NDArray[np.float64]:
    alpha = np.asarray(frequencies, dtype=np.float64)
    if alpha.ndim not in (1, 2) or not alpha.size or not ((alpha >= 0) & (alpha <= 1)).all():
        raise UserError("frequencies: one or more rows of numbers from 0 to 1 are needed")
    if not np.allclose(alpha.sum(axis=-1), 1, rtol=0, atol=1e-6):
        raise UserError("frequencies: every row must sum to 1; divide it by its sum")
    return alpha
