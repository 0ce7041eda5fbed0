"""An answer within so many seconds, whatever waits for it below."""

import threading
from collections.abc import Callable


def within(seconds: float, ask: Callable[[], object]) -> None:
    """Call `ask` in a thread and raise what it raises; TimeoutError when it has not ended in time.

    For what may accept and never answer, or answer a byte at a time. A call that is late is left to itself.
    """
    raised: list[Exception] = []

    def run() -> None:
        try:
            ask()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="deadline", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} seconds")
