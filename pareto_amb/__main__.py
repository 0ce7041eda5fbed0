"""`python -m pareto_amb` is `pareto-amb`."""

from pareto_amb.cli import main

main()
