"""`recommend`: another rule for the same results."""

from pathlib import Path
from typing import Annotated

import typer

from pareto_amb.results.policies import POLICIES, make_policy


def recommend(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    policy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="; ".join(f"{name}: {policy.description}" for name, policy in POLICIES.items()) + ".",
        ),
    ] = "match-ddpm",
    max_memorization: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Limit for --policy max-memorization.")
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            metavar="any|full",
            help="any: among all stopping points of all trainings, DDPM's too; full: among full trainings, "
            "the paper's comparison at equal budget.",
        ),
    ] = "any",
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the recommendation to this YAML file."),
    ] = None,
) -> None:
    """Recommend from a run's results what to train with and where to stop, by a rule of your choice.

    Prints it; the run's recommendation.yaml and report stay as they are. --export writes a file for `train`.
    """
    make_policy(policy, max_memorization)  # refused before anything is read
    from pareto_amb.results.recommendation_file import build_recommendation, write_recommendation
    from pareto_amb.results.run_directory import RunDirectory
    from pareto_amb.results.words import describe
    from pareto_amb.terminal import make_console

    run = RunDirectory(run_dir)
    results = run.load()
    found = build_recommendation(run, policy, max_memorization, results, budget)
    for entry in found.recommendations:
        make_console().print("\n".join(describe(entry, results.declared)))
    for size, reason in found.not_recommended.items():
        print(f"no recommendation for train size {size}: {reason}")
    if export is not None:
        write_recommendation(found, export)
        print(f"written to {export}")
