"""Command lines as processes that find the steps' modules imported: forks, as Airflow's tasks are.

Most of what a short command takes is its imports. A fork is a process like any other: it has its own id, environment and
limits, and can be killed. That the command line starts from nothing is for other tests (``tests/clock``, ``tests/e2e``).
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from subprocess import CompletedProcess

from core.forks import Fork, become_command, preload, start_fork
from core.settings import ROOT

preload("operations.preload")


def start(module: str, *arguments: str, environment: Mapping[str, str], file_limit: int | None = None) -> Fork:
    """Start ``python -m MODULE ARGUMENTS`` in the root folder; it leads its own process group.

    Args:
        module: with a command line.
        arguments: of the command.
        environment: all of its environment.
        file_limit: bytes that a file which it writes may have.
    """
    return start_fork(_become, (module, *arguments), dict(environment), file_limit)


def run(
    module: str, *arguments: str, environment: Mapping[str, str], file_limit: int | None = None
) -> CompletedProcess[str]:
    """Run a command to its end; see `start`."""
    fork = start(module, *arguments, environment=environment, file_limit=file_limit)
    with fork.stdout, fork.stderr:
        # A command's output is its last line, which a pipe holds until its progress is read.
        stderr, stdout = fork.stderr.read(), fork.stdout.read()
    fork.process.join()
    assert fork.process.exitcode is not None
    return CompletedProcess([module, *arguments], fork.process.exitcode, stdout, stderr)


def _become(
    command: tuple[str, ...],
    environment: dict[str, str],
    file_limit: int | None,
    output: Connection,
    errors: Connection,
) -> None:
    os.setsid()
    if file_limit is not None:
        # Python 3.11 keeps a module's bytecode of which a limit let it write the beginning, and cannot import it again.
        sys.dont_write_bytecode, environment["PYTHONDONTWRITEBYTECODE"] = True, "1"
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    become_command(command, environment, ROOT, output, errors)
