"""What the command lines share: progress on standard error, errors without a traceback."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from core.errors import ConfigError, NotReadyError, PlatformError
from core.logs import setup_logging
from core.settings import Settings, load_settings

EXIT_ERROR = 2
EXIT_RETRY = 75  # EX_TEMPFAIL of sysexits.h


def settings_of(source: str | None) -> Settings:
    """Settings of the workspace that ``--source`` names, else of the environment's."""
    return load_settings(source=source) if source else load_settings()


def run(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], None]) -> NoReturn:
    """Parse, run, and turn a ``PlatformError`` into one clear line and an exit status."""
    arguments = parser.parse_args()
    try:
        setup_logging(load_settings())
        main(arguments)
    except PlatformError as error:
        print(f"error: {error}", file=sys.stderr)
        _end(EXIT_RETRY if isinstance(error, NotReadyError) else EXIT_ERROR)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SystemExit as ended:  # of a library
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        _end(ended.code if isinstance(ended.code, int) else bool(ended.code))
    _end(0)


def run_child(module: str, *arguments: str, environment: Mapping[str, str]) -> str:
    """Run a command line of the platform in a process of its own; its progress goes on to ours.

    Unlike ``multiprocessing`` this works in a Celery worker, whose processes may have no such children.

    Returns:
        Its standard output.

    Raises:
        PlatformError: of the child, with its message.
    """
    command = [sys.executable, "-m", module, *arguments]
    last = ""
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        assert child.stdout is not None
        for line in child.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
        found = child.stdout.read()
    if child.returncode == 0:
        return found
    message = last.removeprefix("error: ") or f"{module} ended with status {child.returncode}"
    if child.returncode == EXIT_ERROR:
        raise ConfigError(message)
    raise NotReadyError(
        message if child.returncode == EXIT_RETRY else f"{module} ended with status {child.returncode}: {message}"
    )


def _end(status: int) -> NoReturn:
    """Leave without tearing modules down: DuckDB's bindings would report each object that ibis still holds."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
