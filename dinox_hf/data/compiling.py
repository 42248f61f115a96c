"""Numba where NumPy would pass over the same pixels many times."""

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compile once per machine, not once per process; where nothing may be written, once per process after all."""
    # "contract" lets a product and its sum become one instruction; the order of sums stays as written.
    options = {"nogil": True, "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # Numba finds neither the package nor the user's cache folder writable
        return numba.njit(**options)(function)
