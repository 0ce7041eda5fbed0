"""study.db: Optuna's SQLite file of a run."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from optuna.storages import RDBStorage
from sqlalchemy import URL

from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason

_PATIENCE = 5.0
"""Seconds that another process may hold the database."""


def sqlite_storage(path: Path) -> RDBStorage:
    """Optuna's view of a SQLite file."""
    url = URL.create("sqlite", database=str(path))
    return RDBStorage(url.render_as_string(hide_password=False))


def open_storage(path: Path) -> RDBStorage:
    """Optuna's storage in a SQLite file, a new one where there is none.

    Raises what SQLite and Optuna raise for a file that is locked, read-only, damaged or no database.
    """
    if path.exists():
        if not path.is_file():
            raise ValueError("not a regular file")
        with closing(sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("BEGIN IMMEDIATE")
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            database.execute("ROLLBACK")
        if found != "ok":
            raise ValueError(str(found))
    return sqlite_storage(path)


@contextmanager
def study_errors(path: Path) -> Iterator[None]:
    """Turn what a database raises into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # SQLite's, SQLAlchemy's and Optuna's own, by where the damage is
        remedy = "delete it: it is made again from the results table"
        if "locked" in str(error):
            remedy = "end the process that uses it"
        raise UserError(f"{printable(path)}: cannot be used ({reason(error)}); {remedy}") from error
