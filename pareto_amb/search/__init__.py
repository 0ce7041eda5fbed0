"""The mathematics of the search: fronts, proposals, halving, extrapolation, cost; all minimised."""
