"""The mathematics of the search: fronts, proposals, early stopping, extrapolation, cost; all minimised."""
