"""What all tests share."""

import signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def _sigint_interrupts() -> None:
    """As at a terminal: a shell lets its background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
