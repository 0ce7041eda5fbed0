from pathlib import Path

import pytest

from pareto_amb.errors import UserError
from pareto_amb.storage import Storage, replace_file, write_text


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
