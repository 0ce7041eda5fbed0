"""From a configuration to a finished sweep: what can be refused is refused before anything is made."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from pareto_amb.config import SweepConfig
from pareto_amb.credentials import check_url
from pareto_amb.declared import Declared
from pareto_amb.diffusion.methods import Method
from pareto_amb.needs import describe_encoders, with_encoders
from pareto_amb.results.names import check_names
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.running.claim import claimed
from pareto_amb.running.cluster import check_address
from pareto_amb.running.encoding import encoded
from pareto_amb.running.halt import halting_in_order
from pareto_amb.running.materials import load_materials, rehearse, resolve_auto
from pareto_amb.running.own_code import check_travels
from pareto_amb.running.sweep import Plan, SweepOutcome, check_outside, run_sweep
from pareto_amb.running.tracking import mlflow_left_as_it_was
from pareto_amb.running.trust import check_storage_is_trusted, trusted_tracking_uri, what_it_reads
from pareto_amb.storage import Storage
from pareto_amb.sweep_file import trained_methods, without_secrets


def start_sweep(
    config: SweepConfig,
    path: Path,
    declared: Declared,
    methods: Mapping[str, type[Method]],
    *,
    resumed: bool = False,
    address: str | None = None,
    minutes: float | None = None,
    trust_run: bool = False,
    retry_failed: bool = False,
    notify: str | None = None,
    watch: bool = False,
    console: Console,
) -> SweepOutcome:
    """Run a sweep in the run directory `path`: a new one, or one that goes on where it was `resumed`.

    `declared` is all that the configuration was read against, `methods` has the code of its methods.
    `address` names an existing Ray cluster; after `minutes` the trials stop, to be resumed by another call.
    `trust_run`: what the files of a resumed run name may be connected to. `retry_failed`: its trials that
    failed are tried again. `notify` is a URL that hears of the first result, failures and the end; `watch`
    shows a page that follows the sweep.

    Raises UserError for data, encoders, weights, a cluster or a directory that cannot be used, a
    SweepHaltedError when the sweep had to stop.
    """
    config = without_secrets(config)
    if notify is not None:
        check_url(notify)
    for line in describe_encoders(config):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    config = with_encoders(config)
    check_names(declared)
    check_travels(methods, declared)
    declared = declared.judged_by(config.search.objectives)
    run = RunDirectory(path)
    if resumed:
        trusted_tracking_uri(run, trust_run)
        check_storage_is_trusted(run, config.storage, trust_run)
        for line in what_it_reads(config):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    check_address(address)
    with mlflow_left_as_it_was(), claimed(path, resumed) as claim, ExitStack() as left_at_end:
        materials = load_materials(config, console, methods, fetch=trust_run or not resumed)
        cluster = None
        if materials.unencoded:
            with halting_in_order(claim, Storage(claim.run.storage_uri(config)).folder):
                check_outside(claim.run, config, materials, trust_run, console)
                materials, cluster = encoded(materials, config, claim.run, address, left_at_end, console)
        with console.status("measuring the collapse level"):
            config = resolve_auto(config, declared, materials.training_sets)
            levels = materials.collapse_levels(config)
        declared = declared.training(trained_methods(config, methods)).in_steps(materials.schedule(config))
        config = config.model_copy(update={"space": config.space.only(declared.parameters)})
        rehearse(config, declared, methods, materials)
        seconds = minutes * 60 if minutes else None
        plan = Plan(
            config, declared, methods, materials, levels, resumed, address, seconds, trust_run, retry_failed,
            notify, watch, cluster,
        )  # fmt: skip
        return run_sweep(claim, plan, console)
