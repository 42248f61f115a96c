"""What all tests share: no network, and the folder of real scans where there is one."""

import os
import socket
from pathlib import Path

import pytest

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Any connection that leaves this machine fails, so that no test can lean on the Hub."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in _LOOPBACK:
            raise OSError(f"tests run without network; something tried to reach {address[0]}")
        return connect(self, address)

    socket.socket.connect = guarded
    yield
    socket.socket.connect = connect


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; tests that use it skip without DINOX_REAL_DATA."""
    folder = os.environ.get("DINOX_REAL_DATA")
    if not folder:
        pytest.skip("DINOX_REAL_DATA names no folder of real scans")
    return Path(folder)
