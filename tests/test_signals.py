"""SIGINT and SIGTERM in a process of the command line's, and in one of somebody else's."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from pareto_amb import signals

NUMBERS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (*signals.SIGNALS, signal.SIGUSR1)]


def run(body: str) -> "subprocess.CompletedProcess[str]":
    code = "import os, signal, sys, threading, time\nfrom pareto_amb import signals\n" + body
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@NUMBERS
def test_a_command_ends_with_one_line_and_how_to_continue(number: int, code: int) -> None:
    done = run(
        "with signals.stoppable(), signals.continued_by(lambda: 'again \\x1b'):\n"
        f"    signal.raise_signal({number})\n    print('never')"
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "stopped; continue with: again \\x1b\n"


def test_a_keyboard_interrupt_from_anywhere_is_one_line() -> None:
    done = run("with signals.stoppable(): raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "stopped\n")


@NUMBERS
def test_a_call_that_never_returns_to_python_does_not_keep_a_command(number: int, code: int) -> None:
    """A blocked signal's handler never runs in the main thread, as in a library that does not return."""
    done = run(
        "signals.END_SECONDS = 0.1\n"
        "with signals.stoppable():\n"
        f"    threading.Timer(0.1, os.kill, (os.getpid(), {number})).start()\n"
        "    signals._interrupt = None\n"
        "    signal.signal(signal.SIGINT, lambda *_: None); signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "    time.sleep(50)"
    )
    assert (done.returncode, done.stderr) == (code, "stopped\n")


@NUMBERS
def test_a_noted_signal_ends_work_in_order_and_a_second_at_once(number: int, code: int) -> None:
    work = (
        "with signals.stoppable(), signals.noted() as request:\n"
        f"    signal.raise_signal({number})\n"
        "    print('saved', bool(request), request.number, flush=True)\n"
    )
    first = run(work)
    assert (first.returncode, first.stdout) == (code, f"saved True {int(number)}\n")
    second = run(work + f"    signal.raise_signal({number})\n    print('never')")
    assert (second.returncode, second.stdout) == (code, f"saved True {int(number)}\n")
    assert first.stderr == second.stderr == "stopped\n"


def test_what_a_noted_signal_makes_fail_is_the_signals_doing() -> None:
    done = run(
        "with signals.stoppable(), signals.noted() as request:\n"
        "    signal.raise_signal(signal.SIGTERM)\n    raise ValueError('a worker is gone')"
    )
    assert (done.returncode, done.stderr) == (143, "stopped\n")


def test_a_program_keeps_its_handlers_and_gets_its_signal() -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt), signals.noted():
        signal.raise_signal(signal.SIGINT)
    assert handlers() == before
    with signals.noted() as request:
        assert not request
    assert handlers() == before
    assert not signals.owned()


def test_what_a_library_installs_is_put_back() -> None:
    before = handlers()
    with signals.own_handlers() as put_back:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        put_back()
        assert handlers() == before
        signal.signal(signal.SIGINT, lambda *_: None)
    assert handlers() == before


def test_outside_the_main_thread_nothing_is_touched() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with signals.own_handlers() as put_back, signals.noted() as request:
            put_back()
            seen.append((bool(request), handlers() == before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_a_deadline_ends_a_command_only() -> None:
    with signals.deadline(0.001, "late", 2):
        time.sleep(0.01)
    done = run("with signals.stoppable(), signals.deadline(0.05, 'late', 2): time.sleep(50)")
    assert (done.returncode, done.stderr) == (2, "late\n")
    in_time = run(
        "with signals.stoppable():\n    with signals.deadline(0.2, 'late', 2): pass\n    time.sleep(0.4)"
    )
    assert (in_time.returncode, in_time.stderr) == (0, "")
