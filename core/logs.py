"""Logs: one line per event, as text for people or JSON for machines, each with the context that it belongs to.

The hour, variant, experiment or MLflow run is bound once (``log_context``) and appears on every line that is logged inside,
in Airflow's task logs as well: both use structlog's context variables.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars

from core.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


def setup_logging(settings: Settings) -> None:
    """Log to standard error, so that standard output stays machine-readable."""
    logging.captureWarnings(True)  # a filter would not do: libraries put their own filters before it
    logging.getLogger("py.warnings").setLevel(logging.WARNING if settings.log_level == "DEBUG" else logging.ERROR)
    for noisy in ("feast", "alembic", "mlflow", "httpx", "matplotlib", "fontTools", "sqlglot"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings.log_format))
    logging.basicConfig(level=settings.log_level, handlers=[handler])


def _formatter(log_format: str) -> logging.Formatter:
    """A formatter of lines as text, or as one JSON object each."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, pad_level=False)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            merge_contextvars,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%SZ", utc=True),
            *([structlog.processors.format_exc_info] if log_format == "json" else []),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


class DetailHandler(logging.Handler):
    """Writes every log line of a job to a file; keeps the lines in memory until the file is known."""

    def __init__(self) -> None:
        super().__init__()
        self.path: Path | None = None
        self._stream: IO[str] | None = None
        self._waiting: list[str] = []
        self.setFormatter(_formatter("text"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.write(self.format(record) + "\n")

    def write(self, text: str) -> None:
        """Write a line that is formatted already, such as a child process's."""
        with self.lock:  # type: ignore[union-attr]
            if self._stream is None:
                self._waiting.append(text)
            else:
                self._stream.write(text)
                self._stream.flush()

    def open(self, path: Path) -> None:
        """Append to a file from now on, starting with the lines kept so far."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock:  # type: ignore[union-attr]
            if self._stream is not None:
                self._stream.close()
            self.path = path
            self._stream = path.open("a", encoding="utf-8")
            self._stream.writelines(self._waiting)
            self._stream.flush()
            self._waiting = []

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        super().close()


_relay: list[DetailHandler] = []


def relay(line: str) -> None:
    """Pass on a line of a child process: to the job's log file, or to standard error if there is none."""
    if _relay:
        _relay[-1].write(line)
    else:
        sys.stderr.write(line)


@contextmanager
def relayed_to(handler: DetailHandler) -> Iterator[None]:
    """Send the lines of child processes to a handler within a ``with`` block."""
    _relay.append(handler)
    try:
        yield
    finally:
        _relay.pop()


def log_context(**arguments: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that lines logged within its calls carry some of its arguments.

    Args:
        arguments: name on the log line → name of the function's argument.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs).arguments
            context = {name: str(bound[argument]) for name, argument in arguments.items() if argument in bound}
            with bound_contextvars(**context):
                return function(*args, **kwargs)

        return wrapped

    return decorate
