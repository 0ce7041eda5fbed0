import os
import select
import socket
import stat
import threading
from pathlib import Path

import pytest

from pareto_amb.errors import UserError
from pareto_amb.printable import printable
from pareto_amb.storage import (
    Storage,
    check_folder,
    check_output,
    replace_file,
    write_bytes,
    write_text,
    writing,
)


def test_a_failed_write_leaves_the_old_file_and_no_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail_half_way() -> None:
        with replace_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    write_text(tmp_path / "file.txt", "x")
    assert (tmp_path / "file.txt").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("as_uri", [False, True])
def test_storage_keeps_files_by_name(tmp_path: Path, as_uri: bool) -> None:
    folder = tmp_path / "a folder"
    storage = Storage(folder.as_uri() if as_uri else str(folder))
    assert storage.read("samples/x.npz") is None
    storage.write("samples/x.npz", b"one")
    storage.write("samples/x.npz", b"two")
    assert storage.read("samples/x.npz") == b"two"
    assert (folder / "samples" / "x.npz").read_bytes() == b"two"


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UserError, match="storage 'nope://x': cannot be opened"):
        Storage("nope://x")


def test_a_link_stays_one_and_its_file_is_written(tmp_path: Path) -> None:
    target, link, chain = tmp_path / "a" / "target", tmp_path / "link", tmp_path / "chain"
    link.symlink_to(target)  # to nothing yet
    chain.symlink_to(link)
    for text in ("one", "two"):
        write_text(chain, text)
        assert chain.is_symlink()
        assert link.is_symlink()
        assert target.read_text() == text
    with replace_file(link) as temporary:
        temporary.write_text("three")
    assert target.read_text() == "three"
    assert [entry.name for entry in target.parent.iterdir()] == ["target"]


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("")
    path.chmod(0o600)
    write_text(path, "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_devices_stay_what_they_are(tmp_path: Path) -> None:
    link = tmp_path / "nowhere"
    link.symlink_to("/dev/null")
    write_text(link, "x")
    with pytest.raises(OSError, match="No space left"):
        write_text(Path("/dev/full"), "x")
    for place in (Path("/dev/full"), link):
        with pytest.raises(UserError, match="a device, which a file cannot replace"), replace_file(place):
            pytest.fail("must be refused first")
    for device in ("/dev/null", "/dev/full"):
        assert Path(device).is_char_device()


def test_a_pipe_is_written_into_and_not_waited_for_where_nobody_reads(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device or address"):
        write_text(pipe, "x")
    received: list[bytes] = []
    content = b"x" * 300_000  # more than a pipe holds
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)

    def read() -> None:
        select.select([reader], [], [])  # before somebody writes, a read ends at once
        received.append(os.fdopen(reader, "rb").read())

    thread = threading.Thread(target=read)
    writer = threading.Thread(target=write_bytes, args=(pipe, content))
    writer.start()
    thread.start()
    writer.join(10)
    thread.join(10)
    assert received == [content]
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_an_open_file_of_this_process_is_written_on_where_it_stands(tmp_path: Path, name: str) -> None:
    with (tmp_path / "out.txt").open("w") as out:
        out.write("before ")
        out.flush()
        place = Path(name.format(out.fileno()))
        if name == "link":
            place = tmp_path / "link"
            place.symlink_to(f"/dev/fd/{out.fileno()}")
        write_text(place, "now ")
        out.write("after")
    assert (tmp_path / "out.txt").read_text() == "before now after"
    read, write = os.pipe()
    write_text(Path(f"/dev/fd/{write}"), "piped")
    os.close(write)
    assert os.fdopen(read).read() == "piped"


def test_what_cannot_be_a_file_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    refused: list[tuple[Path, str]] = [
        (folder, "a folder"),
        (folder / "s", "a socket"),
        (folder / "s" / "x", "Not a directory"),
        (tmp_path / ("x" * 256), "File name too long"),
        (tmp_path / "a\0b", "Invalid argument"),
        (tmp_path / "a\ud800b", "Invalid argument"),
        (Path(f"/dev/fd/{10**6}"), "Bad file descriptor"),
        (circle, "Too many levels"),
    ]
    for path, words in refused:
        with pytest.raises(UserError, match=words) as caught, writing(path):
            write_text(path, "x")
        assert len(printable(caught.value).splitlines()) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["circle", "folder"]
    assert [entry.name for entry in folder.iterdir()] == ["s"]


def test_the_longest_names_that_a_file_system_takes_are_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "ü" * 127, os.fsdecode(b"\xff" * 255)):
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"
    assert len(list(tmp_path.iterdir())) == 3


def test_text_that_utf8_has_no_letters_for_is_written_as_escapes(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "a\udcffb")
    assert (tmp_path / "x").read_text() == "a\\udcffb"


def test_where_results_could_not_go_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_folder(tmp_path / "new" / "er")
    check_output(tmp_path / "file")
    check_output(Path("/dev/stdout"))
    for check, path, words in (
        (check_folder, tmp_path / "file" / "x", "is a file; name a folder"),
        (check_folder, tmp_path / ("x" * 256), "File name too long"),
        (check_folder, tmp_path / "a\0", "null byte"),
        (check_output, tmp_path, "is a folder; name a file"),
        (check_output, tmp_path / ("x" * 256), "File name too long"),
        (check_output, tmp_path / "new" / ("x" * 256), "more than 255 bytes"),
    ):
        with pytest.raises(UserError, match=words):
            check(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_storage_reads_regular_files_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "checkpoint")
    with pytest.raises(UserError, match="not a regular file"):
        Storage(str(tmp_path)).read("checkpoint")
