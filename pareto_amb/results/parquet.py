"""A Parquet file that others may have made, as a frame of numbers, text and short lists of numbers.

How much it holds is known before it is read, and of its types only those that Parquet itself has count.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Kind = Literal["str", "int64", "float64", "object"]
"""Of a column; an `object` is a list of real numbers."""

NUMBERS = pa.list_(pa.field("element", pa.float64(), nullable=False))
"""A list as it is to be written, without a dictionary: then each number takes eight bytes of the file."""

MAX_FILE_BYTES = 2**29
MAX_ROWS = 1_000_000
MAX_COLUMNS = 1_000
MAX_TEXT = 100_000
"""Characters in a cell, at most."""
MAX_LENGTH = 100
"""Numbers in a list, at most."""

_MAX_BYTES = 2**30
_CODECS = {"UNCOMPRESSED", "SNAPPY"}
"""Others pack any amount of the same into a few bytes."""
_ENCODINGS = {"PLAIN", "RLE", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "BIT_PACKED"}
"""Of others the length of what they unpack to is not known before."""

_ARROW = b"ARROW:schema"


class ParquetTable:
    """An opened file: what it says of itself, and its columns once they are asked for."""

    def __init__(self, content: bytes) -> None:
        """Raises ValueError, or what pyarrow raises, for no Parquet file or one that says it is huge."""
        source = BytesIO(_without_arrow_schema(content))
        opened = pq.ParquetFile(source)
        _check_sizes(opened.metadata)
        _check_lists(opened)
        self._schema = opened.schema_arrow
        names = list(self._schema.names)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"column '{twice:.80}' is there twice")
        text = [field.name for field in self._schema if _is_text(field.type)]
        # As dictionaries: the same text in every row takes memory once.
        self._file = pq.ParquetFile(source, metadata=opened.metadata, read_dictionary=text)
        self.metadata: Mapping[bytes, bytes] = opened.metadata.metadata or {}

    def frame(self, kinds: Mapping[str, Kind]) -> pd.DataFrame:
        """All columns: those of `kinds` as these say, others as real numbers or as text.

        Missing real numbers become NaN, missing text and missing lists become empty. Raises ValueError,
        which names the column, where one holds something else.
        """
        for field in self._schema:
            _check_type(field, kinds.get(field.name))
        table = self._file.read()
        return pd.DataFrame(
            {name: _column(name, table.column(name), kinds.get(name)) for name in table.column_names}
        )


def _without_arrow_schema(content: bytes) -> bytes:
    """A file without the types of Arrow that its writer noted in the footer.

    Arrow would make them again, those of extensions by their own code, some of which unpickles.
    """
    length = int.from_bytes(content[-8:-4], "little")
    start = max(len(content) - 8 - length, 0)
    return content[:start] + content[start:].replace(_ARROW, b"-" * len(_ARROW))


def _check_sizes(found: pq.FileMetaData) -> None:
    if found.num_rows > MAX_ROWS or found.num_columns > MAX_COLUMNS:
        raise ValueError(f"{found.num_rows:,} rows, {found.num_columns:,} columns are no sweep's")
    groups = [found.row_group(k) for k in range(found.num_row_groups)]
    if (
        sum(group.num_rows for group in groups) != found.num_rows
        or min((group.num_rows for group in groups), default=0) < 0
    ):
        raise ValueError("its number of rows is not that of its parts")
    parts = [group.column(k) for group in groups for k in range(group.num_columns)]
    for part in parts:
        if part.compression not in _CODECS:
            raise ValueError(f"compressed with {part.compression}; write it with snappy")
        if unknown := sorted(set(part.encodings) - _ENCODINGS):
            raise ValueError(f"column '{part.path_in_schema:.80}' is encoded as {unknown[0]}; write it plain")
    if sum(part.total_uncompressed_size for part in parts) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES:,} bytes once unpacked")


def _check_lists(opened: pq.ParquetFile) -> None:
    """Raise ValueError for lists that may take more room than their bytes in the file.

    Numbers that may be missing, and those of a dictionary, take none where they are all the same.
    """
    found, schema = opened.metadata, opened.metadata.schema
    for k in range(found.num_columns):
        column = schema.column(k)
        if not column.max_repetition_level:
            continue
        name = f"column '{column.path.partition('.')[0]:.80}'"
        if column.max_repetition_level > 1 or column.max_definition_level > 2:
            raise ValueError(f"{name} holds more than lists of numbers, or numbers that may be missing")
        parts = [found.row_group(group).column(k) for group in range(found.num_row_groups)]
        if any(set(part.encodings) - {"PLAIN", "RLE"} for part in parts):
            raise ValueError(f"{name} is encoded with a dictionary; write its lists plain")
        if sum(part.num_values for part in parts) > MAX_LENGTH * max(found.num_rows, 1):
            raise ValueError(f"{name} holds lists of more than {MAX_LENGTH} numbers")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_float64(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _check_type(field: pa.Field, wanted: Kind | None) -> None:
    name, kind = field.name, field.type
    words = {
        "str": "text", "int64": "whole numbers", "float64": "numbers", "object": "lists of numbers",
        None: "numbers or text",
    }  # fmt: skip
    fits = pa.types.is_null(kind) or (_is_number(kind) and wanted not in {"str", "object"})
    fits = fits or (_is_text(kind) and wanted in {"str", None}) or (_is_list(kind) and wanted == "object")
    if not fits:
        raise ValueError(f"column '{name:.80}' holds {kind!s:.80}, not {words[wanted]}")


def _column(name: str, column: pa.ChunkedArray, wanted: Kind | None) -> "pd.Series[Any]":
    column.validate(full=True)
    if wanted == "str" or pa.types.is_dictionary(column.type):
        return _text(name, column)
    if wanted == "object":
        return _lists(name, column)
    if wanted == "int64":
        if column.null_count:
            raise ValueError(f"column '{name}' lacks a number in {column.null_count} rows")
        try:
            return column.cast(pa.int64()).to_pandas()
        except pa.ArrowInvalid as error:
            raise ValueError(f"column '{name}' holds a number that is not whole, or too large") from error
    return column.cast(pa.float64(), safe=False).to_pandas()


def _lists(name: str, column: pa.ChunkedArray) -> "pd.Series[Any]":
    if not pa.types.is_null(column.type):
        longest = pc.max(pc.list_value_length(column)).as_py() or 0
        if longest > MAX_LENGTH:
            raise ValueError(f"column '{name}' holds a list of {longest:,} numbers, more than {MAX_LENGTH}")
    return pd.Series([found or [] for found in column.to_pylist()], dtype="object")


def _text(name: str, column: pa.ChunkedArray) -> "pd.Series[Any]":
    if pa.types.is_null(column.type):
        return pd.Series([""] * len(column), dtype="str")
    total = 0
    for chunk in column.chunks:
        lengths = pc.fill_null(pc.binary_length(chunk.dictionary), 0)
        if len(lengths) and pc.max(lengths).as_py() > MAX_TEXT:
            raise ValueError(f"column '{name:.80}' holds a text longer than {MAX_TEXT:,} characters")
        total += pc.sum(pc.take(lengths, chunk.indices)).as_py() or 0
    if total > _MAX_BYTES:
        raise ValueError(f"column '{name:.80}' holds more than {_MAX_BYTES:,} bytes once unpacked")
    return column.cast(pa.string()).fill_null("").to_pandas().astype("str")
