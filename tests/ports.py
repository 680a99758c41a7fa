"""Ports for servers that are told theirs."""

import contextlib
import secrets
import socket


def free_port() -> int:
    """A port that nothing listens on, and that neither who asks for any port is given, nor a worker of Ray's."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
