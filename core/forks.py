"""Processes that are forked from one that has imported what they need: imports are done once, in memory that all share.

Fork safety: a parent may hold modules, but no threads that a child would wait for. Polars starts threads when it is imported, so
it is hidden meanwhile (MLflow and statsmodels take it where it is installed); a child may import it.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple, TextIO

from core.garbage import settle

FORKS = multiprocessing.get_context("forkserver")
"""Starts processes as forks of Python's fork server, which is started with the first one."""
_preloaded: list[str] = []


def preload(module: str) -> None:
    """Have the fork server import a module, besides those that others ask for. It has to be said before the server is started.

    Args:
        module: that imports others within `imports_for_forks`. If it cannot be imported, the forks do it, and say so.
    """
    _preloaded.append(module)
    FORKS.set_forkserver_preload(_preloaded)


@contextmanager
def imports_for_forks() -> Iterator[None]:
    """Import within the block what the processes will need.

    What is imported stays for good, so the garbage collector leaves it alone afterwards: a child's collections would go through
    it all, and write to pages that the processes share.
    """
    gc.disable()  # a fifth of the time would go into collections that find nothing
    try:
        with hidden("polars"):
            yield
    finally:
        gc.enable()
    settle()


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Let a module that nobody has imported yet be missing for a while."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


class Fork(NamedTuple):
    """A process that was forked.

    Attributes:
        process: with its ``pid`` and, once it has ended, its ``exitcode`` as ``subprocess`` has it.
        stdout: what it prints, to be read to its end.
        stderr: likewise.
    """

    process: ForkServerProcess
    stdout: TextIO
    stderr: TextIO


def start_fork(target: Callable[..., None], *arguments: object) -> Fork:
    """Fork a process from the server.

    Args:
        target: runs in it, with ``become_command`` at its end; takes ``arguments``, then where its output and its errors go.
        arguments: are pickled.
    """
    readers, writers = zip(*(FORKS.Pipe(duplex=False) for _ in range(2)), strict=True)
    process = FORKS.Process(target=target, args=(*arguments, *writers))
    process.start()
    for writer in writers:  # the process has them now
        writer.close()
    return Fork(process, *(os.fdopen(os.dup(reader.fileno()), errors="replace") for reader in readers))


def become_command(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, output: Connection, errors: Connection
) -> None:
    """Run a command line as the main program of this process, which was forked, as if it had been started.

    Args:
        command: a module, run as ``python -m`` does, and its arguments.
        environment: all variables.
        folder: to work in.
        output: takes what the command prints to standard output.
        errors: takes what it prints to standard error.
    """
    for number, pipe in ((1, output), (2, errors)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if "OMP_NUM_THREADS" in environment:  # libraries read it when they are loaded, which was before the fork
        from threadpoolctl import threadpool_limits

        threadpool_limits(int(environment["OMP_NUM_THREADS"]))
    logging.getLogger().handlers.clear()  # of what the server imported: the command sets up its own, unless there are some
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
