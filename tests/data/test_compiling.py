import numba
import pytest

from dinox_hf.data.compiling import compiled


def test_a_kernel_compiles_also_where_no_cache_can_be_written():
    namespace = {}
    exec("def double(x):\n    return 2 * x", namespace)  # Numba has no folder to cache a function without a file
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(namespace["double"])
    assert compiled(namespace["double"])(21) == 42
