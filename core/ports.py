"""Ports of this machine: check one, find a free one."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def bind_error(port: int, host: str = LOOPBACK) -> str:
    """Why a port cannot be bound now; empty if it can."""
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
    """Whether a port of the loopback interface can be bound."""
    return not bind_error(port)


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
