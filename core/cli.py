"""What the command lines share: Typer with the platform's conventions, progress on standard error, errors without a traceback.

Only ``typer`` is imported at start-up, so that help and completion answer at once; settings and logs follow when a command runs.
"""

from __future__ import annotations

import atexit
import difflib
import errno
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from core.errors import ConfigError, NotReadyError, PlatformError, is_interruption
from core.garbage import collect_seldom
from core.numbers import is_number

if TYPE_CHECKING:
    from core.settings import Settings

EXIT_ERROR = 2
EXIT_RETRY = 75  # EX_TEMPFAIL of sysexits.h
EXIT_BUG = 1
EXIT_INTERRUPTED = 130
MOST_TRACEBACKS = 10
"""So many files with the details of unexpected errors are kept."""
REFUSED = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), ("must not be read or written by this user", "give access to it")),
    errno.EROFS: ("cannot be written", "mount it so that it can, or let CLOCK_VAR name another folder"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ("cannot be written", "make room, and run the command again")),
}
"""What the system's errors mean for a person, and what to do about them."""
NEGATIVE_NUMBER = re.compile(r"-\d[\d.]*")
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}

SourceOption = Annotated[
    str | None,
    typer.Option("--source", metavar="NAME", help="Workspace to work on. Default: CLOCK_SOURCE, else simulator."),
]
"""``--source`` of a command; without it, the one before the command counts."""


class Command(TyperCommand):
    """A command: sets up logging when it runs, and inherits ``--source`` from the groups above it."""

    def make_parser(self, ctx: Any) -> Any:
        """A parser to which a negative number is a value, not an option."""
        parser = super().make_parser(ctx)
        match = parser._match_short_opt

        def number_or_option(argument: str, state: Any) -> None:
            if NEGATIVE_NUMBER.fullmatch(argument):
                state.largs.append(argument)
            else:
                match(argument, state)

        parser._match_short_opt = number_or_option  # type: ignore[assignment, method-assign]
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; an option whose metavar ends in ``...`` takes all the numbers that follow it."""
        takes_many = {
            name for p in self.params if str(getattr(p, "metavar", None) or "").endswith("...") for name in p.opts
            if name.startswith("-")
        }  # fmt: skip
        expanded: list[str] = []
        option = ""
        for argument in args:
            if option and expanded[-1] != option and not argument.startswith("-") and is_number(argument):
                expanded += [option, argument]
                continue
            if argument in takes_many:
                option = argument
            elif not (option and expanded[-1] == option):
                option = ""
            expanded.append(argument)
        return list(super().parse_args(ctx, expanded))

    def invoke(self, ctx: Any) -> None:
        """Run the command."""
        from core.logs import setup_logging
        from core.settings import load_settings

        inherited = _inherited_source(ctx)
        if "source" in ctx.params:
            ctx.params["source"] = ctx.params["source"] or inherited
        elif inherited:
            ctx.fail(f"'{ctx.command_path}' takes no --source")
        setup_logging(load_settings())
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Group(TyperGroup):
    """A group of commands; ``default_command`` runs if none is named."""

    default_command = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the group's own options; if no command is named, the remaining arguments go to the default command."""
        if self.default_command:
            ctx.ignore_unknown_options = True
        remaining = super().parse_args(ctx, args)
        first = ctx._protected_args[:1]
        if self.default_command and not (first and not first[0].startswith("-")):
            ctx.args = [*ctx._protected_args, *ctx.args]
            ctx._protected_args = [self.default_command]
        return list(remaining)


class App(typer.Typer):
    """A Typer application of the platform: ``-h``, plain exceptions, and with ``shared_source`` also ``--source`` before the command."""

    def __init__(self, *, shared_source: bool = False, **options: Any) -> None:
        defaults: dict[str, Any] = {
            "cls": Group,
            "add_completion": False,
            "no_args_is_help": not options.get("invoke_without_command"),
            "pretty_exceptions_enable": False,
            "context_settings": CONTEXT,
            "callback": source_of_all if shared_source else _group,
        }
        super().__init__(**{**defaults, **options})

    def command(self, name: str | None = None, **options: Any) -> Callable[..., Any]:
        """Register a command."""
        return super().command(name, **{"cls": Command, "context_settings": CONTEXT, **options})


def source_of_all(source: SourceOption = None) -> None:
    """Options of a group; its commands find them in their context."""
    del source


def _group() -> None:
    """A group without options of its own."""


def _inherited_source(ctx: Any) -> str | None:
    """The ``--source`` closest before the command."""
    parent = ctx.parent
    while parent is not None:
        if parent.params.get("source"):
            return str(parent.params["source"])
        parent = parent.parent
    return None


def settings_of(source: str | None) -> Settings:
    """Settings of the workspace that ``--source`` names; by default the environment's.

    Args:
        source: name of the workspace.

    Raises:
        ConfigError: a setting is wrong.
    """
    from core.settings import load_settings

    return load_settings(source=source) if source else load_settings()


def call(app: typer.Typer, arguments: Sequence[str], *, program: str | None = None) -> int:
    """Run a command line in this process; its errors are raised.

    Args:
        app: the command line.
        arguments: what a shell would pass, without the program.
        program: name in usage messages.

    Returns:
        The exit status.

    Raises:
        PlatformError: the command failed.
        TyperException: the command line is wrong.
    """
    result = get_command(app).main(list(arguments), prog_name=program, standalone_mode=False)
    return result if isinstance(result, int) else 0


def run(app: typer.Typer, *, program: str | None = None) -> NoReturn:
    """Run the process's command line; a ``PlatformError`` becomes one clear line and an exit status."""
    signal.signal(signal.SIGTERM, _terminated)  # what is being done cleans up after itself
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    collect_seldom()
    try:
        status = call(app, sys.argv[1:], program=program)
        if status == EXIT_INTERRUPTED:
            print("interrupted", file=sys.stderr)
    except PlatformError as error:
        print(f"error: {error}", file=sys.stderr)
        status = EXIT_RETRY if isinstance(error, NotReadyError) else EXIT_ERROR
    except TyperException as error:
        if message := usage_message(error):
            print(f"error: {message}", file=sys.stderr)
        status = error.exit_code
    except (typer.Abort, KeyboardInterrupt) as error:
        status = _tell_interrupted(error)
    except SystemExit as ended:  # raised by a library
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except Exception as error:
        status = _tell_other(error)
    _end(status)


def _tell_interrupted(error: BaseException) -> int:
    """Tell of Ctrl-C, or of a file that ended too early, which Typer takes for the end of its input; gives the exit status."""
    if isinstance(error.__cause__, EOFError):
        return _tell_other(error.__cause__)
    print("interrupted", file=sys.stderr)
    return EXIT_INTERRUPTED


def _tell_other(error: Exception) -> int:
    """Tell of what the system refused, of Ctrl-C while DuckDB computed, or of an error that nobody foresaw; gives the exit status."""
    if isinstance(error, OSError) and error.errno in REFUSED:
        what, remedy = REFUSED[error.errno]
        name = f"'{error.filename}'" if error.filename else "a file"
        print(f"error: {name} {what} ({error.strerror}); {remedy}", file=sys.stderr)
        return EXIT_ERROR
    if is_interruption(error):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"error: unexpected {type(error).__name__}: {error}; details in {_keep_traceback()}", file=sys.stderr)
    return EXIT_BUG


def _terminated(number: int, _: object) -> NoReturn:
    _stop_queries()
    raise SystemExit(128 + number)


def _interrupted(number: int, _: object) -> NoReturn:
    del number
    _stop_queries()
    raise KeyboardInterrupt


def _stop_queries() -> None:
    if duck := sys.modules.get("core.duck"):  # its import takes time that most commands do not need
        duck.interrupt_all()


def usage_message(error: TyperException) -> str:
    """What is wrong with a command line, in one line: the mistake, a similar option, and where to find help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""  # Typer has printed the help
    if option := getattr(error, "option_name", ""):
        options = [o for p in context.command.params for o in p.opts if o.startswith("--")] if context else []
        matches = (
            difflib.get_close_matches(option, [*options, "--help"], n=1) if hasattr(error, "possibilities") else []
        )
        text = error.message + (f"; did you mean '{matches[0]}'?" if matches else "")
    else:
        text = error.format_message()
    text = re.sub(r"\s+", " ", text).replace(": Value error, ", ": ").rstrip(".")
    return text + (f" (help: {context.command_path} --help)" if context else "")


def run_child(module: str, *arguments: str, environment: Mapping[str, str]) -> str:
    """Run a command line of the platform in a child process; its progress is relayed to ours.

    Unlike ``multiprocessing`` this works in a Celery worker, whose processes may not have such children.

    Args:
        module: run as ``python -m module``.
        arguments: its command line.
        environment: variables on top of this process's own.

    Returns:
        The child's standard output.

    Raises:
        PlatformError: the child failed; with its message.
    """
    from core.logs import relay

    command = [sys.executable, "-m", module, *arguments]
    last = ""
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        assert child.stdout is not None
        try:
            for line in child.stderr:
                relay(line)
                last = line.strip() or last
            output = child.stdout.read()
        except BaseException:
            child.terminate()
            raise
    if child.returncode == 0:
        return output
    message = last.removeprefix("error: ") or f"{module} ended with status {child.returncode}"
    if child.returncode == EXIT_ERROR:
        raise ConfigError(message)
    raise NotReadyError(
        message if child.returncode == EXIT_RETRY else f"{module} ended with status {child.returncode}: {message}"
    )


def _keep_traceback() -> str:
    """Write the traceback of the running exception to a file; returns its path. Only the last few are kept."""
    with tempfile.NamedTemporaryFile("w", prefix="clock-error-", suffix=".log", delete=False, encoding="utf-8") as sink:
        sink.write(traceback.format_exc())
    with suppress(OSError):  # another process removes them as well, or they are another user's
        files = Path(sink.name).parent.glob("clock-error-*.log")
        for old in sorted(files, key=lambda file: file.stat().st_mtime)[:-MOST_TRACEBACKS]:
            old.unlink()
    return sink.name


def _end(status: int) -> NoReturn:
    """Exit without tearing down modules: DuckDB's bindings would report each object that ibis still holds."""
    atexit._run_exitfuncs()  # libraries remove their temporary files here, as Feast its folder for metrics
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            continue
    os._exit(status)
