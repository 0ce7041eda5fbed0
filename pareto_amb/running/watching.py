"""`sweep --watch`: the page that follows a sweep, served by a process of its own, which ends with it."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from pareto_amb.results.run_directory import RunDirectory


@contextmanager
def watched(run: RunDirectory, console: Console) -> Iterator[None]:
    """Show a page of the run while the block lasts, at a port that is free; the sweep never waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-P", "-m", "pareto_amb.dashboards.live_server"]
        page = subprocess.Popen(
            [*command, str(run.path.resolve()), str(listening.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )
        port = listening.getsockname()[1]
    console.print(f"watch it at http://127.0.0.1:{port}", soft_wrap=True, highlight=False, markup=False)
    try:
        yield
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):
            page.communicate(b"", timeout=5)
