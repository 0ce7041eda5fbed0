"""Secrets in URIs: what is printed or written into a file shows that there was one, and not which."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
"""Stands for a secret."""

_HARMLESS = {
    "allow_bucket_creation", "allow_bucket_deletion", "blob_storage_authority", "blob_storage_scheme",
    "buffer_size", "charset", "check_directory_existence_before_creation", "client_id", "connect_timeout",
    "default_block_size", "dfs_storage_authority", "dfs_storage_scheme", "driver", "enable_tls",
    "endpoint_override", "force_virtual_addressing", "mode", "project_id", "region", "replication",
    "retry_limit_seconds", "scheme", "sslmode", "tenant_id", "timeout", "tls_ca_file_path",
    "tls_verify_certificates",
}  # fmt: skip
"""Keys of a URI's query whose values are shown."""

_FILE = r"(?:file|sqlite(?:\+\w+)?):///"
"""What begins a URI of a file, which has no user; an @ in it is part of a name."""

_NEXT = r"""[,;|&()\[\]{}<>'"]\s*[A-Za-z][\w+.-]*:/"""
"""Where another URI begins without a space before it."""

_CLOSED = r"'[)\]}>,;:.]*(?:\s|$)"
"""A single quote that ends a text, and is no part of a password."""

_BEGIN = rf"(?<![\w+.-])(?!{_FILE})([A-Za-z][\w+.-]*:/+)"
_REST = rf"(?:(?!{_NEXT})[^\s\"])*"

_UNCLEAR = re.compile(rf"{_BEGIN}(?:(?!{_NEXT})[^\s\"?])*\?{_REST}@{_REST}")
"""An @ behind a ?: of a password that holds a ?, or of a query."""

_USER_INFO = re.compile(rf"{_BEGIN}{_REST}@")
_CUT_OFF = re.compile(
    rf"{_BEGIN}(?!\*\*\*)[^\s/?#@:\[\]'\"]*:(?!\d*(?:[^\w\s]|\s|$))(?:(?!{_NEXT}|{_CLOSED})[^\s\"])*"
)
_QUERY = re.compile(rf"(?<![\w+.-])([A-Za-z][\w+.-]*:/+(?:(?!{_NEXT})[^\s?\"])*\?)((?:(?!{_NEXT})[^\s\"])+)")
_PART = re.compile(r"[^&;]+")
_CLOSING = re.compile(r"[)\]}>'.,:]*$")
_PLAIN = re.compile(r"[^@:]*(?:://)?[^@:]*(?::\d+)?[^@:]*")


def redact(text: str) -> str:
    """`text` with the user, password and query values of every URI in it hidden.

    A password may hold any letter but spaces and double quotes. What comes before the last @ of a URI is
    hidden, so that an @ in a path hides the host too, and all of a URI that has no @ but what looks like the
    beginning of a password, as where the rest was cut off; what follows an @ in such a beginning cannot be
    told from a host. Idempotent.

    >>> redact("postgresql://me:pass@host/runs?sslmode=require")
    'postgresql://***@host/runs?sslmode=require'
    """
    hidden = _UNCLEAR.sub(rf"\1{HIDDEN}", text)
    hidden = _USER_INFO.sub(rf"\1{HIDDEN}@", hidden)
    hidden = _CUT_OFF.sub(rf"\1{HIDDEN}", hidden)
    return _QUERY.sub(lambda found: found.group(1) + _PART.sub(_hide_value, found.group(2)), hidden)


def redact_values(values: Any, hide: Callable[[str], str] = redact, but: Collection[str] = ()) -> Any:
    """`values`, as JSON has them, with every text but those of the keys in `but` hidden by `hide`."""
    if isinstance(values, Mapping):
        return {
            key: value if key in but else redact_values(value, hide, but) for key, value in values.items()
        }
    if isinstance(values, (list, tuple)):
        return [redact_values(value, hide, but) for value in values]
    return hide(values) if isinstance(values, str) else values


_FOLDER = r"""(?:(?:(?! [-/~])[^/\\\n'"<>|=:;,()\[\]{}])+[/\\])"""
"""A folder of a path, which may hold spaces; nothing that ends a path in a sentence or a command."""

_ROOT = r"(?:~[\w.-]*[/\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|/(?=[^\s/])|\\\\(?=\S))"

_PATH = re.compile(
    r"(?:\b(?:file|sqlite(?:\+\w+)?):/+(?=/)|(?<![^\s'\"=(\[{,;:>|`“]))"
    rf"{_ROOT}{_FOLDER}*([^/\\\s'\"<>|:;,()\[\]{{}}”]*)"
)


def without_paths(text: str) -> str:
    """`text` with every path that begins at a root, a home, or where one stands cut to its last name.

    The addresses of servers stay as they are. Idempotent.

    >>> without_paths("trained on '/home/me/my photos/train.zip', in runs/a")
    "trained on '…/train.zip', in runs/a"
    """
    return _PATH.sub(r"…/\1", text)


def redact_uri(uri: str) -> str:
    """As `redact`, for a text that is known to be one URI, however malformed."""
    hidden = redact("".join(uri.split()) if "@" in uri else uri)
    if "://" not in hidden and re.search(r":.*@", hidden):
        return f"{HIDDEN}@{hidden.rpartition('@')[2]}"
    return hidden


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """A command's arguments, that of --notify hidden: all of such a URL may be a secret."""
    hidden, before = [], ""
    for argument in arguments:
        if argument.startswith("--notify="):
            argument = f"--notify={HIDDEN}"
        hidden.append(HIDDEN if before == "--notify" else argument)
        before = argument
    return hidden


def _hide_value(found: re.Match[str]) -> str:
    """One `key=value` of a query."""
    key, separator, value = found.group().partition("=")
    if key in _HARMLESS and _PLAIN.fullmatch(unquote(value)):
        return found.group()
    closing = _CLOSING.search(value or key)
    return f"{key if separator else ''}{separator}{HIDDEN}{closing.group() if closing else ''}"
