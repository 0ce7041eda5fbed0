"""--notify against servers of this process, on loopback."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rich.console import Console

from pareto_amb.credentials import check_url, shown_url
from pareto_amb.errors import UserError
from pareto_amb.redaction import redact_arguments
from pareto_amb.results.live import Event, Kind
from pareto_amb.running import notify
from pareto_amb.running.notify import Notifier

SECRET = "s3cret"


class Server(ThreadingHTTPServer):
    """Keeps what is posted, and answers with `status`."""

    status, daemon_threads = 204, True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, str | None, dict[str, Any]]] = []
        self.url = f"http://me:{SECRET}@127.0.0.1:{self.server_port}/{SECRET}?token={SECRET}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Authorization"], json.loads(body)))
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def tell(url: str | None) -> str:
    """A sweep with two results and two failures; what the terminal says of it."""
    output = io.StringIO()
    notifier = Notifier(url, "digits-1", Console(file=output, width=200))
    story: list[tuple[Kind, bool]] = [
        ("started", False), ("promoted", False), ("paused", True), ("complete", True), ("failed", False),
        ("interrupted", False),
    ]  # fmt: skip
    for at, (kind, sampled) in enumerate(story):
        notifier.hear(Event(at=float(at), kind=kind, trial_id=f"t{at}", words=f"it {kind}", sampled=sampled))
    notifier.end("finished in 3s", failed=False)
    return output.getvalue()


def test_the_first_result_failures_and_the_end_are_posted(hook: Server) -> None:
    assert tell(hook.url) == ""
    said = [(body["event"], body.get("trial_id"), body["text"]) for _, _, body in hook.got]
    assert said == [
        ("first-result", "t2", "it paused; one training, its noise is unknown, nothing is compared yet"),
        ("failure", "t4", "it failed"),
        ("failure", "t5", "it interrupted"),
        ("end", None, "finished in 3s"),
    ]
    assert {body["run"] for _, _, body in hook.got} == {"digits-1"}
    assert {(path, who) for path, who, _ in hook.got} == {(f"/{SECRET}?token={SECRET}", "Basic bWU6czNjcmV0")}
    assert tell(None) == ""


@pytest.mark.parametrize(("status", "why"), [(500, "HTTP 500"), (404, "HTTP 404"), (302, "HTTP 302")])
def test_a_server_that_refuses_is_named_without_secrets(hook: Server, status: int, why: str) -> None:
    hook.status = status
    assert tell(hook.url) == f"--notify: http://127.0.0.1/*** did not take a message ({why})\n"
    assert "/elsewhere" not in {path for path, *_ in hook.got}


def test_a_server_that_is_gone_or_never_answers_holds_nothing_up(
    hook: Server, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PATIENCE", 60)
    monkeypatch.setattr(notify, "TIMEOUT", 60)
    hook.server_close()
    assert "(Connection refused)" in tell(hook.url)
    monkeypatch.setattr(notify, "PATIENCE", 0.2)
    monkeypatch.setattr(notify, "TIMEOUT", 0.1)
    said = tell(f"http://127.0.0.1:{silent_port}/{SECRET}")
    assert "did not take a message" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "url",
    [f"ftp://host/{SECRET}", SECRET, f"https:///{SECRET}", f"http://host:99999/{SECRET}",
     f"http://[{SECRET}/", f"http://host/{SECRET}\n", f"http://höst/{SECRET}"],
)  # fmt: skip
def test_a_url_that_cannot_be_posted_to_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UserError, match="--notify: needs a URL") as refused:
        check_url(url)
    assert SECRET not in str(refused.value)


def test_nothing_of_a_url_but_its_server_is_shown() -> None:
    check_url(f"https://me:{SECRET}@host:8443/{SECRET}")
    assert shown_url(f"https://me:{SECRET}@host:8443/{SECRET}?a={SECRET}") == "https://host/***"
    command = [
        "sweep",
        "digits",
        "--notify",
        f"https://host/{SECRET}",
        f"--notify=http://{SECRET}",
        "--watch",
    ]
    assert SECRET not in " ".join(redact_arguments(command))
    assert redact_arguments(command)[-1] == "--watch"
