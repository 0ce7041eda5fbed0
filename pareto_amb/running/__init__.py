"""What runs on Ray: a sweep, its searcher and its scheduler, and what follows its results."""

import os

# Ray reads this when it is imported, and would abort on SIGTERM with a stack dump. Its workers may.
_name = "RAY_DISABLE_FAILURE_SIGNAL_HANDLER"
_before = os.environ.get(_name)
os.environ[_name] = "1"
import ray._private.ray_constants  # noqa: E402, F401

if _before is None:
    del os.environ[_name]
else:
    os.environ[_name] = _before
