"""A sweep with the services of a cluster, real ones on loopback: PostgreSQL, an MLflow server and S3.

A canary is in the place of every password: no file and no stream of the sweep holds it.
"""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pg8000.native
import pytest
from mlflow import MlflowClient
from moto.server import ThreadedMotoServer

from pareto_amb.results.table import load_results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CANARY = "CANARY8842"
PASSWORD = f"{CANARY}-database"
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-key",
    "AWS_DEFAULT_REGION": "us-east-1",
}
WAIT_SECONDS = 200


def wait_for(port: int, process: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        assert process is None or process.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def postgres_binaries() -> Path | None:
    """Debian keeps those of a server out of PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = str(installed[-1]) if installed else shutil.which("initdb")
    return Path(found).parent if found else None


@pytest.fixture(scope="module")
def database(free_port: Callable[[], int]) -> Iterator[int]:
    """The port of a PostgreSQL of this test's own, with an empty database `mlflow`."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    root = os.getuid() == 0
    user: dict[str, Any] = {"user": "postgres"} if root else {}  # it does not run as root
    folder, port = Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
    (secret := folder / "password").write_text(PASSWORD)
    if root:
        for path in (folder, secret):
            shutil.chown(path, "postgres")
    data, me = folder / "data", "postgres"
    access = ["--auth=scram-sha-256", f"--pwfile={secret}", f"--username={me}"]
    subprocess.run(
        [binaries / "initdb", f"--pgdata={data}", *access, "--no-sync"],
        check=True, cwd=folder, capture_output=True, **user,
    )  # fmt: skip
    options = ["-c", "fsync=off", "-c", f"unix_socket_directories={folder}"]
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), *options],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user,
    )  # fmt: skip
    try:
        wait_for(port, server)
        with pg8000.native.Connection(me, password=PASSWORD, host="127.0.0.1", port=port) as connection:
            connection.run("CREATE DATABASE mlflow")
        yield port
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def store() -> Iterator[int]:
    """The port of an object store with the buckets `sweeps` and `mlflow`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    for bucket in ("sweeps", "mlflow"):
        objects(port).create_bucket(Bucket=bucket)
    yield port
    server.stop()


def objects(port: int) -> Any:
    key, secret, region = KEYS.values()
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=region,
    )


def names(port: int, bucket: str) -> list[str]:
    return [found["Key"] for found in objects(port).list_objects_v2(Bucket=bucket).get("Contents", [])]


@pytest.fixture(scope="module")
def tracking(
    database: int, store: int, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URI of an MLflow server as deploy/mlflow.yaml has it."""
    port = free_port()
    uri = f"postgresql+pg8000://postgres:{PASSWORD}@127.0.0.1:{database}/mlflow"
    where = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{store}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("mlflow") / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--workers", "1", "--artifacts-destination", "s3://mlflow"],
            env={**os.environ, **KEYS, **where}, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(port, server)
        MlflowClient(
            tracking_uri=f"http://127.0.0.1:{port}"
        ).search_experiments()  # its first answer takes long
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Of the sweep and its Ray, with a path short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="a", dir="/tmp") as short:
        yield Path(short)


def sweep(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    places = {"TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": str(folder / "ray")}
    return subprocess.run(
        [sys.executable, "-m", "pareto_amb", "sweep", *arguments],
        cwd=folder, env={**inherited, **KEYS, **places, **more}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def printed(folder: Path, database: int, store: int, tracking: str, smallest: list[str]) -> str:
    """What a sweep said that kept its models in S3 and told the server of them, with passwords everywhere."""
    for name in ("tmp", "ray"):
        (folder / name).mkdir()
    storage = f"storage=s3://sweeps/smoke?endpoint_override=127.0.0.1:{store}&scheme=http"
    secrets = {
        "MLFLOW_TRACKING_URI": tracking.replace("http://", f"http://me:{CANARY}@"),
        "MLFLOW_TRACKING_TOKEN": f"{CANARY}-token",
    }
    done = sweep(folder, "smoke", "--output", "run", *smallest, "--set", storage, **secrets)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_sweep_with_postgresql_an_mlflow_server_and_s3(
    printed: str, folder: Path, database: int, store: int, tracking: str
) -> None:
    assert "mlflow sync" not in printed
    rows = load_results(folder / "run" / "results.parquet").frame
    kept = names(store, "sweeps")
    assert {f"smoke/checkpoints/{trial}.safetensors" for trial in rows.trial_id} <= set(kept)
    assert not (folder / "run" / "checkpoints").exists()

    client = MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name("pareto-amb")
    assert experiment is not None
    runs = {run.data.tags.get("trial_id", ""): run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"", *rows.trial_id}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    best = rows.groupby("trial_id").last()
    for trial_id, fid in best.fid.items():
        assert runs[str(trial_id)].data.metrics["fid"] == pytest.approx(fid)
    attached = {name.rpartition("/")[2] for name in names(store, "mlflow")}
    assert {"results.parquet", "report.html", "recommendation.yaml"} <= attached
    assert any(name.startswith("samples") and name.endswith(".png") for name in attached)
    with pg8000.native.Connection(
        "postgres", password=PASSWORD, host="127.0.0.1", port=database, database="mlflow"
    ) as connection:
        ((count,),) = connection.run("SELECT count(*) FROM runs")
    assert count == len(runs)


def contents(path: Path) -> Iterator[bytes]:
    """What a file holds, as it is and unpacked."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        yield pd.read_parquet(path).to_csv().encode()
    elif path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            yield from map(archive.read, archive.namelist())
    elif path.suffix == ".db":
        connection = sqlite3.connect(path)
        yield "\n".join(connection.iterdump()).encode()
        connection.close()


def test_no_file_and_no_stream_of_it_holds_a_password(
    printed: str, folder: Path, store: int, tracking: str
) -> None:
    refused = sweep(folder, "--resume", "run")
    assert (refused.returncode, "set MLFLOW_TRACKING_URI" in refused.stderr) == (2, True)
    assert CANARY not in printed + refused.stdout + refused.stderr
    shown = tracking.replace("http://", "http://***@")
    assert shown in (folder / "run" / "environment.json").read_text()
    looked = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(looked) > 30
    for path in looked:
        assert not any(CANARY.encode() in content for content in contents(path)), path
    client = objects(store)
    for bucket in ("sweeps", "mlflow"):
        for name in names(store, bucket):
            assert CANARY.encode() not in client.get_object(Bucket=bucket, Key=name)["Body"].read(), name
