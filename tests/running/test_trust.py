"""Which servers and databases are used at all: those that one may, that answer, and that can be written."""

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pareto_amb.errors import UserError
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.running.storage_check import check_storage
from pareto_amb.running.tracking_check import check_tracking
from pareto_amb.running.trust import trusted_tracking_uri
from pareto_amb.storage import Storage


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def tracked_at(folder: Path, uri: str | None) -> RunDirectory:
    run = RunDirectory(folder / "runs" / "run")
    run.path.mkdir(parents=True)
    run.environment.write_text(json.dumps({"tracking_uri": uri} if uri else {}))
    return run


def test_the_environment_decides_where_to_track(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracked_at(here, "http://elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert trusted_tracking_uri(run) == "http://server"


def test_a_run_is_tracked_in_a_file_right_here_unless_its_own_says_else(here: Path) -> None:
    assert trusted_tracking_uri(tracked_at(here, None)) == f"sqlite:///{here / 'mlflow.db'}"


@pytest.mark.parametrize("above", ["runs/run", "runs", "", ".."])
def test_a_file_in_the_run_or_above_it_is_used_again(
    here: Path, above: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{(here / above).resolve() / 'mlflow.db'}"
    run = tracked_at(here, uri)
    (here.parent / "other").mkdir()
    monkeypatch.chdir(here.parent / "other")
    assert trusted_tracking_uri(run) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "http://evil.example/x",
        "postgresql://evil.example/x",
        "sqlite:////elsewhere/mlflow.db",
        "sqlite:///{here}/../other/mlflow.db",
        "sqlite:///{here}/mlflow.db?mode=ro",
        "sqlite:///mlflow.db",
        "databricks",
        "file:///tmp",
    ],
)
def test_another_server_is_called_only_for_a_run_that_is_trusted(here: Path, uri: str) -> None:
    (here.parent / "other").mkdir()
    run = tracked_at(here, uri := uri.format(here=here))
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI, or give --trust-run"):
        trusted_tracking_uri(run)
    assert trusted_tracking_uri(run, trust=True) == uri


def test_a_link_beside_the_run_to_a_file_elsewhere_is_not_followed(here: Path) -> None:
    (here.parent / "other").mkdir()
    (here / "mine.db").symlink_to(here.parent / "other" / "mlflow.db")
    with pytest.raises(UserError, match="--trust-run"):
        trusted_tracking_uri(tracked_at(here, f"sqlite:///{here / 'mine.db'}"))


def test_a_hidden_password_is_asked_for_even_of_a_run_that_is_trusted(here: Path) -> None:
    run = tracked_at(here, "http://me:CANARY@host")  # of an older version, which wrote it
    with pytest.raises(
        UserError, match=r"http://\*\*\*@host, whose secrets are not in the file; set"
    ) as said:
        trusted_tracking_uri(run, trust=True)
    assert "CANARY" not in str(said.value)


def test_a_database_to_be_made_is_not_made_by_asking(tmp_path: Path) -> None:
    check_tracking(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_mlflow_is_left_as_it_is(tmp_path: Path, empty_store: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(content := empty_store.read_bytes())
    check_tracking(f"sqlite:///{path}")
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def refusal(uri: str, **options: Any) -> str:
    started = time.monotonic()
    with pytest.raises(UserError) as said:
        check_tracking(uri, **options)
    assert time.monotonic() - started < 10
    assert "CANARY" not in str(said.value)
    assert "set MLFLOW_TRACKING_URI" in str(said.value)
    return str(said.value)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("nonsense://me:CANARY@x", "no server of that kind"),
        ("http://me:CANARY@[::1", "Invalid IPv6 URL"),
        ("http://me:CAN CANARY@host", "holds a space"),
        ("http://me:CANARY@127.0.0.1:1", "Connection refused"),
        ("http://127.0.0.1:notaport", "cannot be used"),
        ("postgresql+psycopg2://me:CANARY@host/x", "pip install psycopg2-binary"),
        ("mysql+pymysql://me:CANARY@host/x?password=CANARY", "pip install pymysql"),
        ("mysql+unheard://me:CANARY@host/x", "cannot be used"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:////proc/mlflow.db", "nothing can be written in /proc"),
        ("sqlite:////dev/null", "no regular file"),
        ("mlruns", "no runs in folders"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(uri: str, why: str) -> None:
    assert why in refusal(uri)


def test_a_server_that_never_answers_is_refused_in_time(silent_port: int) -> None:
    assert "no answer within 1 seconds" in refusal(f"http://me:CANARY@127.0.0.1:{silent_port}", seconds=1)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"text" * 1000)
    assert "not a database" in refusal(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_database_that_is_locked_is_refused(tmp_path: Path, empty_store: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_store.read_bytes())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert "locked" in refusal(f"sqlite:///{path}")
    other.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_database_that_is_read_only_is_refused(tmp_path: Path, empty_store: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_store.read_bytes())
    path.chmod(0o444)
    assert "read-only" in refusal(f"sqlite:///{path}")


def test_a_deleted_experiment_is_refused(tmp_path: Path, empty_store: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_store.read_bytes())
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    client.delete_experiment(client.create_experiment("pareto-amb"))
    assert "experiment pareto-amb was deleted" in refusal(f"sqlite:///{path}")


def test_a_storage_that_denies_access_says_whose_keys_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(self: Storage) -> None:
        raise OSError("AWS Error ACCESS_DENIED during PutObject operation")

    monkeypatch.setattr(Storage, "probe", deny)
    with pytest.raises(UserError, match=r"ACCESS_DENIED.*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        check_storage("s3://bucket/x?region=eu-1")
    check_storage("/a/folder")
