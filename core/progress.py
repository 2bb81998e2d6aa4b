"""What a person sees of a long job: one line per stage with the time it took; every log line goes to a file.

Code marks its log lines: ``log.info("training …", extra=STAGE)`` begins a stage, ``extra=step(2, 6)`` reports progress.
Without a screen (``--verbose``, DAGs, tests) these are log lines like any other.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape

from core import logs

STAGE: dict[str, object] = {"stage": True}
"""``extra`` of a log line that begins a stage of a job."""


def step(done: int, total: int) -> dict[str, object]:
    """``extra`` of a log line that reports how much of the running stage is done."""
    return {"step": (done, total)}


class Screen(Protocol):
    """Where stages are shown."""

    def begin(self, text: str) -> None:
        """Begin a stage; the one before is done."""

    def advance(self, text: str, done: int, total: int) -> None:
        """Report how much of the running stage is done."""

    def detail(self, text: str) -> None:
        """Report what happens right now."""

    def warn(self, text: str) -> None:
        """Report something that a person has to know."""

    def close(self, *, failed: bool) -> None:
        """End the job."""


class Lines:
    """Plain lines for pipes and CI, each with the seconds since the start."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def begin(self, text: str) -> None:
        """Print a line for the stage."""
        self._print(text)

    def advance(self, text: str, done: int, total: int) -> None:
        """Print a line for the step."""
        self._print(f"  {done}/{total} {text}")

    def detail(self, text: str) -> None:
        """Print nothing: the log file has it."""

    def warn(self, text: str) -> None:
        """Print a line for the warning."""
        self._print(f"warning: {text}")

    def close(self, *, failed: bool) -> None:
        """Print a last line with the time taken."""
        self._print("failed" if failed else "done")

    def _print(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun:6.0f} s  {text}", file=sys.stderr, flush=True)


class Terminal:
    """A live line for the running stage, with a bar if its length is known, and a permanent line for each finished one."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bar, self._count = BarColumn(bar_width=20), MofNCompleteColumn()
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), self._bar, self._count, TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False, style="dim"), console=self._console, transient=True,
        )  # fmt: skip
        self._stage, self._since = "", 0.0
        self._task: Any = None
        self._progress.start()

    def begin(self, text: str) -> None:
        """Finish the previous stage and show the new one."""
        self._finish("[green]✓[/]")
        self._stage, self._since = text, time.monotonic()
        self._task = self._progress.add_task(text, total=None, detail="")

    def advance(self, text: str, done: int, total: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, detail=_short(text))

    def detail(self, text: str) -> None:
        """Show the latest log line beside the stage."""
        if self._task is not None:
            self._progress.update(self._task, detail=_short(text))

    def warn(self, text: str) -> None:
        """Print a permanent line."""
        self._print("[yellow]![/]", text)

    def close(self, *, failed: bool) -> None:
        """Finish the last stage and release the terminal."""
        self._finish("[red]✗[/]" if failed else "[green]✓[/]")
        self._progress.stop()

    def _finish(self, mark: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._print(mark, f"{self._stage}  {time.monotonic() - self._since:.0f} s")
            self._task = None

    def _print(self, mark: str, text: str) -> None:

        self._console.print(f"{mark} {escape(text)}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


class ScreenHandler(logging.Handler):
    """Passes log lines on to a screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Show a log line the way it is marked."""
        text = record.getMessage()
        if getattr(record, "stage", False):
            self._screen.begin(text)
        elif progressed := getattr(record, "step", None):
            self._screen.advance(text, *progressed)
        elif record.levelno >= logging.WARNING:
            self._screen.warn(text)
        else:
            self._screen.detail(text)


@contextmanager
def showing(*, verbose: bool = False) -> Iterator[None]:
    """Show a job's stages within a ``with`` block; every log line goes to a file (``log_to``).

    Args:
        verbose: show every log line instead, as usual.
    """
    if verbose:
        yield
        return
    screen: Screen = Terminal() if sys.stderr.isatty() else Lines()
    root = logging.getLogger()
    replaced = list(root.handlers)
    handler = ScreenHandler(screen)
    details = logs.DetailHandler()
    for replaced_handler in replaced:
        root.removeHandler(replaced_handler)
    root.addHandler(handler)
    root.addHandler(details)
    failed = True
    try:
        with logs.relayed_to(details):
            yield
        failed = False
    finally:
        screen.close(failed=failed)
        root.removeHandler(handler)
        root.removeHandler(details)
        for replaced_handler in replaced:
            root.addHandler(replaced_handler)
        if details.path:
            print(f"Log       {details.path}", file=sys.stderr)
        details.close()


def log_to(path: Path) -> None:
    """Write the log lines of the job that ``showing`` shows to a file, including those before this call."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logs.DetailHandler):
            handler.open(path)
