"""Linear algebra of small matrices, on one thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy.linalg  # noqa: F401 - loads its BLAS
import scipy.linalg  # noqa: F401 - loads another
from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS to one thread in a block, or in a function that this decorates: it takes 11 us to set that.

    By itself BLAS spreads matrices of some hundred rows over all processors. Where those have other work, and
    in a sweep they have, its threads wait for each other.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    """Those that NumPy and SciPy have loaded, each its own."""
    return ThreadpoolController()
