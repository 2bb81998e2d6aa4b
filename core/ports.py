"""Ports of this machine: whether one is free, and one that is."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def why_taken(port: int, host: str = LOOPBACK) -> str:
    """Why nobody can listen there now; empty where somebody can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
        except OverflowError:
            return "a port is from 0 to 65535"
    return ""


def port_is_free(port: int) -> bool:
    """Whether somebody can listen on it, on loopback."""
    return not why_taken(port)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
