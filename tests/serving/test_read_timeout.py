"""Slow clients: a request that does not arrive is given up, whatever part of it is missing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Request

from core.ports import free_port
from serving import read_timeout
from serving.read_timeout import TimedHttpProtocol

LIMIT_SECONDS = 0.5
HEAD = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n"


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(read_timeout, "READ_SECONDS", LIMIT_SECONDS)
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @app.post("/refused")
    async def refused() -> None:
        raise HTTPException(413, "too much")

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=TimedHttpProtocol, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield "127.0.0.1", port
    server.should_exit = True
    thread.join(10)


def answer(client: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    client.settimeout(10)
    return b"".join(iter(lambda: client.recv(1000), b""))


@pytest.mark.parametrize("half", [b"", HEAD[:1], HEAD[:40], HEAD, HEAD + b"{}"])
def test_a_request_that_stops_half_way_is_answered_with_408_and_closed(address: tuple[str, int], half: bytes) -> None:
    begun = time.monotonic()
    with socket.create_connection(address) as client:
        client.sendall(half)
        got = answer(client)
    assert got.startswith(b"HTTP/1.1 408 ")
    assert got.count(b"HTTP/1.1") == 1
    assert LIMIT_SECONDS * 0.9 < time.monotonic() - begun < LIMIT_SECONDS + 5


def test_a_byte_now_and_then_does_not_keep_the_connection(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:
        begun = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012  # one of the sends fails
            for byte in HEAD + b"null":
                client.sendall(bytes([byte]))
                time.sleep(LIMIT_SECONDS / 5)
        assert time.monotonic() - begun < LIMIT_SECONDS + 5


def test_whole_requests_on_one_connection_are_answered_however_long_it_lasts(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:
        for _ in range(3):
            client.sendall(HEAD)
            time.sleep(LIMIT_SECONDS * 0.6)
            client.sendall(b"null")
            got = b""
            while not got.endswith(b"\r\n\r\n4"):  # the body's length, after the head
                got += client.recv(1000)
            assert got.startswith(b"HTTP/1.1 200 OK")
        client.sendall(HEAD[:9])  # and a half one after them
        assert answer(client).startswith(b"HTTP/1.1 408 ")


def test_a_refused_request_whose_body_never_ends_gets_one_answer(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:
        client.sendall(HEAD.replace(b"/echo", b"/refused").replace(b"4\r\n\r\n", b"9999\r\n\r\n"))
        got = answer(client)
    assert got.startswith(b"HTTP/1.1 413 ")
    assert got.count(b"HTTP/1.1") == 1
