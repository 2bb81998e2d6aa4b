"""Logs: one line an event, as text for people or JSON for machines, and on every line what it belongs to.

The hour, variant, experiment or MLflow run is bound once (``log_context``), and lines below say it, Airflow's task logs too:
both use structlog's context variables.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars

from core.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


def setup_logging(settings: Settings) -> None:
    """Progress goes to standard error, so that standard output stays machine-readable."""
    warnings.filterwarnings("ignore", module="ibis|mlflow|feast|evidently|sqlalchemy")
    for noisy in ("feast", "alembic", "mlflow", "httpx", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, pad_level=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                merge_contextvars,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%SZ", utc=True),
                *([structlog.processors.format_exc_info] if settings.log_format == "json" else []),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=settings.log_level, handlers=[handler])


def log_context(**arguments: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lines logged within calls of a function say some of its arguments.

    Args:
        arguments: name on the log line → name of the function's argument.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs).arguments
            said = {name: str(given[argument]) for name, argument in arguments.items() if argument in given}
            with bound_contextvars(**said):
                return function(*args, **kwargs)

        return wrapped

    return decorate
