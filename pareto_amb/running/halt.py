"""A sweep that what it runs on has stopped: one line, and a run that can be resumed."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pareto_amb import signals
from pareto_amb.errors import ExitCode, UserError
from pareto_amb.printable import printable
from pareto_amb.running.claim import Claim
from pareto_amb.running.room import describe_free
from pareto_amb.trainables.faults import FULL, describe, fault_of, number_of


class SweepHaltedError(UserError):
    """A full disk, or another fault of the machines, has stopped a sweep; nothing of it is lost."""

    exit_code = ExitCode.FAILED


@contextmanager
def halting_in_order(claim: Claim, storage: Path | None) -> Iterator[None]:
    """Turn a fault of the machine in the block into a SweepHaltedError.

    It names the place and how to go on: with the run, once the claim is kept. `storage` is the folder of
    checkpoints where it is one of this machine's.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        fault = fault_of(error, any_file=True)
        if fault is None:
            raise
        run = claim.run.path
        place = _place(fault, storage or run)
        free = f", {describe_free(place)} free there" if number_of(fault) in FULL else ""
        remedy = "make room and start it again" if free else "mend that and start it again"
        if claim.kept:
            command = signals.hint() or shlex.join(["pareto-amb", "sweep", "--resume", str(run)])
            remedy = f"its results are safe; go on with: {printable(command)}"
        raise SweepHaltedError(
            f"{printable(place)}: the sweep had to stop ({describe(fault)}{free}); {remedy}"
        ) from error


def _place(fault: BaseException, otherwise: Path) -> Path:
    """The folder of the file that a fault names, else the one given."""
    name = getattr(fault, "filename", None)
    return Path(name).parent if isinstance(name, str) and name.startswith("/") else otherwise
