"""The suite reaches no network: not this process, not the ones it starts."""

import os
import socket
import subprocess
import sys

import pytest

OUTSIDE = ("192.0.2.1", 80)  # TEST-NET-1: an address that belongs to nobody


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    both = {**os.environ, **env}
    return subprocess.run(command, env=both, capture_output=True, text=True)


def test_connections_that_leave_the_machine_are_refused():
    with socket.socket() as outside, pytest.raises(OSError, match="refused by the"):
        outside.connect(OUTSIDE)
    with pytest.raises(OSError, match="refused by the guard"):
        socket.getaddrinfo("example.com", 80)


def test_local_connections_pass():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


@pytest.mark.parametrize("mode, host", [("local", "192.0.2.1"), ("none", "127.0.0.1")])
def test_processes_started_by_tests_are_guarded_too(mode, host):
    code = f"import socket; socket.socket().connect(({host!r}, 80))"
    done = run(code, SRDD_SOCKETS=mode)
    assert done.returncode == 1
    assert "refused by the guard" in done.stderr
