"""S3 that waits: pyarrow's own client ends its tries after 6 seconds, and each answer must begin within 3."""

from typing import Any

from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

ANSWER_SECONDS = 30
"""A store has so long to go on with an answer."""


class RetryingS3(S3FileSystem):
    """An S3 that is asked again where it fails, drops a connection or is gone.

    The waits in between are random: half a second in the mean, then twice as long each, at most 20 seconds.
    """

    def __init__(self, attempts: int, options: dict[str, Any]) -> None:
        """`options` are those of another S3FileSystem."""
        super().__init__(
            **{**options, "request_timeout": ANSWER_SECONDS},
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts),
        )
        self._attempts, self._options = attempts, options

    def __reduce__(self) -> tuple[Any, ...]:
        """Its own pickle would leave the strategy out."""
        return RetryingS3, (self._attempts, self._options)


def retrying(filesystem: Any, attempts: int) -> Any:
    """A file system, asked so often where it is S3; other stores' clients wait for minutes by themselves."""
    if not isinstance(filesystem, S3FileSystem):
        return filesystem
    _, (options, *_) = filesystem.__reduce__()
    return RetryingS3(attempts, options)
