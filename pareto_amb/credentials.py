"""Secrets of a storage URI, which go to this process's environment and no further; and a URL to notify."""

import os
import re
from urllib.parse import unquote, urlsplit

from pareto_amb.errors import UserError
from pareto_amb.redaction import HIDDEN, redact_uri

KEY_ID, KEY = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
SESSION = "AWS_SESSION_TOKEN"

_INSTEAD = {
    "s3": f"set {KEY_ID} and {KEY}",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file",
    "gcs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file",
    "abfs": "set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET",
    "abfss": "set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET",
    "hdfs": "use a Kerberos ticket (kinit)",
    "viewfs": "use a Kerberos ticket (kinit)",
}
_USER_ALONE = re.compile(r"(?:hdfs|viewfs|gs|gcs)://[^:/?#@]*@[^?@]*")


def take_credentials(uri: str) -> str:
    """A storage URI without secrets; those of s3:// are in this process's environment from now on.

    Raises UserError where another scheme, or a query, has one.
    """
    scheme, _, rest = uri.partition("://")
    user, at, place = rest.rpartition("@")
    if scheme == "s3" and at:
        key_id, _, key = user.partition(":")
        bare = f"s3://{place}"
        if key_id and key and redact_uri(bare) == bare:
            os.environ.update({KEY_ID: unquote(key_id), KEY: unquote(key)})
            os.environ.pop(SESSION, None)  # it belongs to other keys
            return bare
    elif redact_uri(uri) == uri or _USER_ALONE.fullmatch(uri):
        return uri
    instead = _INSTEAD.get(scheme, "keep it in the environment")
    raise UserError(f"storage '{redact_uri(uri)}': the URI holds a secret; {instead}, and leave it out")


def storage_credentials(uri: str) -> dict[str, str]:
    """The keys that reach s3:// from this process, for workers on other nodes; none that expire."""
    if not uri.startswith("s3://") or SESSION in os.environ:
        return {}
    return {name: os.environ[name] for name in (KEY_ID, KEY) if name in os.environ}


def check_url(url: str) -> None:
    """Raise UserError, which shows nothing of it but scheme and host, for what cannot be posted to."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fine = False
    if not fine or not url.isascii() or not url.isprintable() or " " in url:
        raise UserError("--notify: needs a URL such as https://example.org/hook, in plain letters")


def shown_url(url: str) -> str:
    """A URL without user, path and query, which may all be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}/{HIDDEN}"
