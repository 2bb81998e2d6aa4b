"""Command lines as processes that find the steps' modules imported: forks, as Airflow's tasks are.

Most of what a short command takes is its imports. A fork is a process like any other: it has its own id, environment and
limits, and can be killed. That the command line starts from nothing is for other tests (``tests/clock``, ``tests/e2e``).
"""

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import runpy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from subprocess import CompletedProcess

from core.settings import ROOT

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["operations.preload"])


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
    readers, writers = zip(*(_FORKS.Pipe(duplex=False) for _ in range(2)), strict=True)
    process = _FORKS.Process(target=_become, args=(writers, module, arguments, dict(environment), file_limit))
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
    for number, output in enumerate(outputs, 1):
        os.dup2(output.fileno(), number)
        output.close()
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    if file_limit is not None:
        # Python 3.11 keeps a module's bytecode of which a limit let it write the beginning, and cannot import it again.
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
