"""Closes connections whose request does not arrive: a client that sends half of one, or a byte now and then, holds nothing up."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

READ_SECONDS = 10.0
"""Time for a whole request, from its first byte (of a new connection: from its start) to the end of its body, seconds."""
_BODY = b'{"error":"the request did not arrive in time"}'
_ANSWER = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class TimedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a time limit on reading a request, which it has for idle connections only."""

    _read_timer: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None
    """The request before the one that is being read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_reading()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request's first byte has come."""
        self._answering = self.cycle
        self._start_reading()
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """A request is here as a whole."""
        self._stop_reading()
        super().on_message_complete()

    def _start_reading(self) -> None:
        self._stop_reading()
        self._read_timer = self.loop.call_later(READ_SECONDS, self._give_up)

    def _stop_reading(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        earlier_is_done = self._answering is None or self._answering.response_complete
        is_answered = self.cycle is not self._answering and self.cycle.response_started  # refused before it was here
        if earlier_is_done and not is_answered:
            self.transport.write(_ANSWER)
        self.transport.close()
