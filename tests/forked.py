"""Command lines as processes that find the steps' modules imported: forks, as Airflow's tasks are.

Most of what a short command takes is its imports. A fork is a process like any other: it has its own id, environment and
limits, and can be killed. That the command line starts from nothing is for other tests (``tests/clock``, ``tests/e2e``).
"""

from __future__ import annotations

import io
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from subprocess import CompletedProcess

from core.forks import FORKS, become_command, preload
from core.settings import ROOT

preload("operations.preload")


@dataclass(frozen=True)
class Fork:
    """A running command; it leads its own process group.

    Attributes:
        process: with its ``pid`` and, once it has ended, its ``exitcode`` as ``subprocess`` has it.
        stdout: what it prints, to be read to its end.
        stderr: likewise.
    """

    process: ForkServerProcess
    stdout: io.TextIOBase
    stderr: io.TextIOBase


def start(module: str, *arguments: str, environment: Mapping[str, str], file_limit: int | None = None) -> Fork:
    """Start ``python -m MODULE ARGUMENTS`` in the root folder.

    Args:
        module: with a command line.
        arguments: of the command.
        environment: all of its environment.
        file_limit: bytes that a file which it writes may have.
    """
    readers, writers = zip(*(FORKS.Pipe(duplex=False) for _ in range(2)), strict=True)
    process = FORKS.Process(target=_become, args=(writers, module, arguments, dict(environment), file_limit))
    process.start()
    for writer in writers:
        writer.close()
    return Fork(process, *(os.fdopen(os.dup(reader.fileno()), encoding="utf-8") for reader in readers))


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
    outputs: tuple[Connection, Connection],
    module: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    file_limit: int | None,
) -> None:
    os.setsid()
    if file_limit is not None:
        # Python 3.11 keeps a module's bytecode of which a limit let it write the beginning, and cannot import it again.
        sys.dont_write_bytecode, environment["PYTHONDONTWRITEBYTECODE"] = True, "1"
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    become_command((module, *arguments), environment, ROOT, *outputs)
