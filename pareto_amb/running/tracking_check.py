"""Whether a tracking URI can be used, told within seconds and without making anything there."""

import os
import re
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.db.db_types import DATABASE_ENGINES

from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.redaction import redact_uri
from pareto_amb.running.deadline import within
from pareto_amb.running.tracking import EXPERIMENT, limit_requests, quiet_mlflow, why
from pareto_amb.running.trust import TRACKING_VARIABLE

PROBE_SECONDS = 5
"""How long a server may take to answer before it is refused."""

_PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "pyodbc": "pyodbc",
    "pymssql": "pymssql",
    "boto3": "boto3",
}
"""What pip calls the package of a module."""


_NAMED = {"databricks", "databricks-uc", "uc"}
"""Servers that go by a word alone."""


class _RefusedError(Exception):
    """Why a URI cannot be used, in words of our own."""


def check_tracking(uri: str, seconds: float = PROBE_SECONDS) -> None:
    """Raise UserError, within about `seconds`, when MLflow cannot be used at `uri`."""
    quiet_mlflow()
    limit_requests(PROBE_SECONDS)
    probe = _probe_of(uri)
    try:
        within(seconds, lambda: probe(uri))
    except Exception as error:  # of MLflow, its driver or the network
        raise UserError(
            f"MLflow at {printable(redact_uri(uri))}: cannot be used ({_explain(error)}); set "
            f"{TRACKING_VARIABLE} to a server or a writable sqlite:///FILE"
        ) from error


def _explain(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        return f"its driver is not installed: pip install {_PACKAGES.get(module, module)}"
    said = why(error)
    if "unsupported URI" in said:
        return "MLflow knows no server of that kind"
    if re.search(r"\b40[13]\b", said):
        return f"{said}; give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    return said


def _probe_of(uri: str) -> Callable[[str], None]:
    """What tells whether a URI can be used."""
    scheme = uri.partition(":")[0].lower() if ":" in uri or uri in _NAMED else ""
    engine = scheme.partition("+")[0]
    if engine == "sqlite":
        return _probe_sqlite
    if engine in DATABASE_ENGINES:
        return _probe_database
    return _probe_folder if scheme in {"", "file"} else _probe_server


def _probe_server(uri: str) -> None:
    if re.search(r"\s", uri):
        raise _RefusedError("it holds a space; write %20 for one")
    experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        _check_experiment(experiment.lifecycle_stage)


def _probe_folder(uri: str) -> None:
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in {"true", "1"}:
        raise _RefusedError("MLflow keeps no runs in folders any more")
    _check_writable(Path(uri.removeprefix("file://")))


def _probe_database(uri: str) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        if sqlalchemy.inspect(connection).has_table("experiments"):
            query = sqlalchemy.text("SELECT lifecycle_stage FROM experiments WHERE name = :name")
            _check_experiment(connection.execute(query, {"name": EXPERIMENT}).scalar())
            _check_schema(engine)
    engine.dispose()


def _probe_sqlite(uri: str) -> None:
    from sqlalchemy.engine import make_url

    name = make_url(uri).database
    if not name or name == ":memory:":
        raise _RefusedError("a database in memory is gone with its process")
    path = Path(name.removeprefix("file:"))
    _check_writable(path)
    if not path.exists() or not path.stat().st_size:
        return
    connection = sqlite3.connect(path, timeout=2)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
        connection.execute("BEGIN IMMEDIATE")  # refused where it is locked or read-only
        connection.rollback()
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    finally:
        connection.close()
    if "experiments" in tables:
        _probe_database(uri)


def _check_writable(path: Path) -> None:
    """Raise _RefusedError where no file could be made or changed at `path`."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise _RefusedError("it is no regular file")
    if path.exists() and not os.access(path, os.W_OK):
        raise _RefusedError("it is read-only")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _RefusedError(f"nothing can be written in {printable(folder)}: {reason(error)}") from error


def _check_experiment(stage: str | None) -> None:
    if stage == "deleted":
        raise _RefusedError(
            f"its experiment {EXPERIMENT} was deleted; mlflow experiments restore brings it back"
        )


def _check_schema(engine: object) -> None:
    """Raise what MLflow raises for a database that it will not open as it is."""
    from mlflow.store.db import utils

    if utils._all_tables_exist(engine):
        utils._verify_schema(engine)
