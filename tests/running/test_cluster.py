"""What `--address` may be, and where Ray keeps its sockets: refused in one line, before Ray is asked."""

import logging
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_amb.errors import ExitCode, UserError
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.running import cluster, reaper
from pareto_amb.running.cluster import ClusterLostError, ClusterWatch, check_address
from pareto_amb.running.ray_log import ray_log
from pareto_amb.signals import continued_by


@pytest.mark.parametrize(
    "address",
    [
        *("", " ", "::::", "http://", "http://localhost:80", "ray://head:10001", "host", "host:", ":6379"),
        *("host:0", "host:99999", "host:1x", "a@host:6379", "host:6379/x", "host\0:6379", "host:6379\n"),
        *("[::1:6379", "::1:6379"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"must be auto or HOST:PORT|nothing answers"):
        check_address(address)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=12).filter(lambda text: not text.rpartition(":")[2].isdecimal()))
def test_any_text_is_an_address_or_refused(address: str) -> None:
    if address not in ("auto", "local"):
        with pytest.raises(UserError, match="must be auto or HOST:PORT"):
            check_address(address)


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_what_names_no_server_is_left_to_ray(address: str | None) -> None:
    check_address(address)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of something that takes a connection and answers, once, with the bytes of the parameter."""
    answer: bytes | None = request.param
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError), listening.accept()[0] as connection:
                if answer is not None:
                    connection.recv(1000)
                    connection.sendall(answer)
                else:
                    connection.recv(1000)
                    connection.recv(1000)  # until the client is gone

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    thread.join(5)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (None, "says nothing"),
        (b"", "not Ray"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not Ray"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not Ray"),
    ],
    indirect=["server"],
    ids=["silent", "closes", "http", "ssh"],
)
def test_what_is_not_ray_is_refused(server: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with pytest.raises(UserError, match=message):
        check_address(server)


@pytest.mark.parametrize("server", [bytes([0, 0, 18, 4, 0, 0, 0, 0, 0])], indirect=True)
def test_what_answers_like_a_grpc_server_may_be_ray(server: str) -> None:
    check_address(server)


def test_a_long_or_unwritable_tmpdir_is_replaced_by_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    long = tmp_path / ("x" * 60)
    (file := tmp_path / "file").write_text("")
    for given_one in (str(long), str(file)):
        monkeypatch.setenv("TMPDIR", given_one)
        chosen = cluster._short_folder()
        assert not chosen.startswith(given_one)
        assert len(os.fsencode(chosen)) + cluster.SOCKET_NAME <= cluster.SOCKET_PATH


def test_no_folder_for_sockets_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(cluster, "SOCKET_PATH", 0)
    with pytest.raises(UserError, match="set RAY_TMPDIR"):
        cluster._short_folder()


def watch_of(places: dict[str, Any], path: Path) -> ClusterWatch:
    watch = ClusterWatch.__new__(ClusterWatch)
    watch._places, watch._run, watch.ours, watch._lost = places, RunDirectory(path), True, ""
    return watch


def test_a_process_of_rays_that_takes_no_connection_is_lost(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        watch = watch_of({"GCS": there.getsockname(), "raylet": there.getsockname()}, tmp_path)
        watch.check()
        watch = watch_of({"GCS": there.getsockname(), "raylet": closed.getsockname()}, tmp_path)
        watch.check_found()  # not looked for yet
        with (
            continued_by(lambda: "pareto-amb sweep --resume run --address auto"),
            pytest.raises(ClusterLostError, match=r"died.*ray\.log.*--resume run --address auto") as caught,
        ):
            watch.check()
        assert caught.value.exit_code == ExitCode.FAILED
        with pytest.raises(ClusterLostError, match="raylet"):
            watch.check_found()
        watch = watch_of({"raylet": closed.getsockname()}, tmp_path)
        with pytest.raises(ClusterLostError, match="; start it again"):  # nothing was kept to go on with
            watch.check()


def test_only_what_belongs_to_the_sweep_is_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    now = {8: ("agent", 1, "10"), 9: ("somebody else", 1, "21")}
    monkeypatch.setattr(reaper.os, "kill", lambda pid, _: killed.append(pid))
    monkeypatch.setattr(reaper, "_stat", now.__getitem__)
    monkeypatch.setattr(
        reaper, "_started_by_raylet", lambda driver: {(8, "10"), (9, "20")} if driver == 7 else set()
    )
    commands = {8: b"agent", 9: b"vi /tmp/ray/session_2/x", 11: b"worker --raylet=/tmp/ray/session_1/sockets"}
    monkeypatch.setattr(reaper, "_sessions", lambda driver: {b"/session_1/"} if driver == 7 else set())
    monkeypatch.setattr(reaper, "_processes", lambda: list(commands))
    monkeypatch.setattr(reaper, "_command", commands.__getitem__)
    with socket.socketpair()[0] as end, end.makefile("r") as over:
        end.shutdown(socket.SHUT_RDWR)
        monkeypatch.setattr(reaper.sys, "stdin", over)
        monkeypatch.setattr(reaper, "GRACE_SECONDS", 0)
        reaper.wait_and_reap(7)
    assert killed == [8, 11]  # the second was still starting when its raylet ended


@pytest.mark.slow
def test_the_reaper_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*command: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*command, **options))
        return started[-1]

    monkeypatch.setattr(reaper.subprocess, "Popen", start)
    with reaper.reaper():
        assert [process.poll() for process in started] == [None]
    assert [process.returncode for process in started] == [0]


def test_rays_loggers_are_a_programs_own_again_after_a_sweep(tmp_path: Path) -> None:
    logger = logging.getLogger("ray.tune")
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [logging.NullHandler()], True
    logger.setLevel(17)
    own = logger.handlers[0]
    try:
        with ray_log(tmp_path / "ray.log"):
            assert (logger.propagate, logger.level) == (False, logging.WARNING)
        assert (logger.handlers, logger.propagate, logger.level) == ([own], True, 17)
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])
