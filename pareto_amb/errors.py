"""The one exception a user is meant to read."""

import sys


class UserError(Exception):
    """Something the user handed in cannot be used.

    The message is one line: it names the culprit (a key, a file, a value) and the remedy.
    The command line prints it to stderr and exits with code 2, without a traceback.
    """


def print_error(error: UserError) -> None:
    """Print the one line of a UserError to stderr."""
    print(f"pareto-amb: error: {error}", file=sys.stderr, flush=True)
