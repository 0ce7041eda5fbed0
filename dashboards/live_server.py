"""Serves the page that follows a run, to this machine alone.

Run as a module it is the page of `sweep --watch`: it serves on a socket that it is handed, until its
standard input ends, which it does with the sweep, however that ends.
"""

import logging
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from werkzeug.serving import BaseWSGIServer, make_server

from pareto_amb.dashboards.live import make_app
from pareto_amb.errors import UserError
from pareto_amb.printable import reason

HOST = "127.0.0.1"


def listen(port: int) -> socket.socket:
    """A socket on this machine alone; at port 0 wherever one is free. UserError where it is taken."""
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {port}: cannot be used ({reason(error)}); give another, or 0") from error


def make_page(path: Path, listening: socket.socket, trust: bool = False) -> BaseWSGIServer:
    """A server of the page, to be run by `serve_forever`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = make_app(path, trust)
    return make_server(HOST, 0, app.server, threaded=True, fd=listening.fileno())


def give_way() -> None:
    """Let whatever else wants this machine's CPUs, a sweep above all, have them first."""
    with suppress(OSError):
        os.nice(5)


def _serve_until_standard_input_ends(path: Path, descriptor: int) -> None:
    give_way()
    with socket.socket(fileno=descriptor) as listening:
        server = make_page(path, listening, trust=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.buffer.read()


if __name__ == "__main__":
    _serve_until_standard_input_ends(Path(sys.argv[1]), int(sys.argv[2]))
