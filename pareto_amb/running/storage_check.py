"""Whether a sweep's storage answers, told within seconds."""

from pareto_amb.credentials import KEY, KEY_ID
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.redaction import redact_uri
from pareto_amb.running.deadline import within
from pareto_amb.storage import Storage

PROBE_SECONDS = 20
"""How long a storage may take to answer; its client tries some times by itself."""


def check_storage(uri: str) -> None:
    """Raise UserError when a storage URI cannot be written or does not answer; a folder is not asked."""
    if "://" not in uri:
        return
    storage = Storage(uri)
    try:
        within(PROBE_SECONDS, storage.probe)
    except OSError as error:
        keys = f"; it is used with {KEY_ID} and {KEY} of the environment" if uri.startswith("s3://") else ""
        raise UserError(
            f"storage '{printable(redact_uri(uri))}': cannot be used ({reason(error)}){keys}"
        ) from error
