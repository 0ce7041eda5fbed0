"""`--notify`: a JSON POST to a server of the user's at the first result, a failure and the end."""

import json
import queue
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from rich.console import Console

from pareto_amb.credentials import shown_url
from pareto_amb.results.live import Event

TIMEOUT = 10.0
"""A server has so many seconds to answer."""

PATIENCE = 20.0
"""Seconds that the end of a sweep waits for what was not sent yet."""

_MOST = 100
"""Messages that wait to be sent; further ones are dropped."""

_SLOW = "it is too slow"


class Notifier:
    """Posts messages from a thread of its own: neither a slow server nor one that is gone holds up a sweep.

    A message has `event` (first-result, failure or end), `run`, `at` (seconds since 1970), `text`, and
    `trial_id` where it is of one. Without a `url` nothing is posted.
    """

    def __init__(self, url: str | None, run: str, console: Console) -> None:
        self._url, self._run, self._console = url, run, console
        self._problem, self._first = "", True
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST)
        self._thread = threading.Thread(target=self._post_all, name="notify", daemon=True)

    def hear(self, event: Event) -> None:
        """Tell of the first figures of samples, and of a trial that has failed."""
        if event.sampled and self._first and event.kind != "failed":
            self._first = False
            self._put(
                "first-result",
                f"{event.words}; one training, its noise is unknown, nothing is compared yet",
                event.trial_id,
            )
        elif event.kind in {"failed", "interrupted"}:
            self._put("failure", event.words, event.trial_id)

    def end(self, text: str, failed: bool) -> None:
        """Tell of the end, or of the failure that it is, and say where that could not be told.

        Waits a while for what was not sent yet, after a failure less long.
        """
        if self._url is None:
            return
        self._put("failure" if failed else "end", text)
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(PATIENCE / 4 if failed else PATIENCE)
        problem = self._problem or (_SLOW if self._thread.is_alive() else "")
        if problem:
            line = f"--notify: {shown_url(self._url)} did not take a message ({problem})"
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _put(self, event: str, text: str, trial_id: str = "") -> None:
        if self._url is None:
            return
        message = {"event": event, "run": self._run, "at": time.time(), "text": text}
        if not self._thread.ident:
            self._thread.start()
        try:
            self._queue.put_nowait({**message, **({"trial_id": trial_id} if trial_id else {})})
        except queue.Full:
            self._problem = _SLOW

    def _post_all(self) -> None:
        while self._url is not None and (message := self._queue.get()) is not None:
            self._problem = _post(self._url, message) or self._problem


def _post(url: str, message: Mapping[str, Any]) -> str:
    """Why a message could not be delivered, without secrets; empty where it was."""
    headers = {"Content-Type": "application/json", "User-Agent": "pareto-amb"}
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    if at:
        headers["Authorization"] = f"Basic {b64encode(unquote(user).encode()).decode()}"
        url = urlunsplit(parts._replace(netloc=place))
    try:
        request = urllib.request.Request(url, json.dumps(message).encode(), headers, method="POST")
        with _OPENER.open(request, timeout=TIMEOUT):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code}"
    except Exception as error:  # their texts may hold the URL
        found = getattr(error, "reason", error)
        said = found.strerror if isinstance(found, OSError) else ""
        return said or type(found).__name__


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A message goes to the server that was named, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)
