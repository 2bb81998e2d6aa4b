"""The reference page of the command line, from its own help."""

from __future__ import annotations

import inspect
import re
from typing import Any

from docs.markdown import code, page, prose, table


def commands_page() -> str:
    """The command line, from its own help."""
    import typer.main

    from clock.main import app

    root = typer.main.get_command(app)
    parts = [
        "`make setup` installs `clock` into `.venv/bin`; `source .venv/bin/activate` puts it on the path of a shell. "
        "`--help` after any command explains it."
    ]
    parts += _commands(root, "clock", 2)
    return page("Command line", *parts)


def _commands(command: Any, name: str, level: int) -> list[str]:
    """Sections of a command and of those below it, as its own help describes them."""
    parts = []
    if name != "clock":
        parts.append(f"{'#' * min(level, 4)} {name}")
    parts.append(_help_text(command.help))
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
    usage = " ".join([name, *(["[OPTIONS]"] if options else []), *(_metavar(a) for a in arguments)])
    children = _children(command)
    parts.append(f"```\n{usage}{' COMMAND …' if children else ''}\n```")
    rows = [(code(_metavar(a)), "", getattr(a, "help", None) or "", _default(a)) for a in arguments]
    rows += [
        (", ".join(code(o) for o in (*p.opts, *p.secondary_opts)), _kind(p), p.help or "", _default(p))
        for p in options
        if "--help" not in p.opts
    ]
    if rows:
        parts.append(table(["argument or option", "type", "meaning", "default"], rows))
    if children:
        anchors = ((child, f"{name} {child}".replace(" ", "-")) for child in children)
        summaries = [
            (f"[`{name} {child}`](#{anchor})", _first_sentence(children[child].help)) for child, anchor in anchors
        ]
        parts.append(table(["command", "what it does"], summaries))
    for child, below in children.items():
        parts += _commands(below, f"{name} {child}", level + 1 if name != "clock" else 2)
    return parts


def _children(command: Any) -> dict[str, Any]:
    return {name: c for name, c in getattr(command, "commands", {}).items() if not c.hidden}


def _help_text(text: str | None) -> str:
    plain = inspect.cleandoc((text or "").split("\f")[0])
    plain = re.sub(r"\[/?(?:bold|italic|dim|cyan|green|yellow|red|blue|magenta)[^\]]*\]", "", plain)
    return prose(plain.replace("\b\n", ""))


def _first_sentence(text: str | None) -> str:
    return _help_text(text).strip().split("\n\n")[0]


def _metavar(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    name = f"{name}…" if parameter.nargs == -1 and not name.endswith(("…", "...")) else name
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _kind(parameter: Any) -> str:
    if parameter.is_flag:
        return "flag"
    annotation = parameter.bare_type
    return str(parameter.metavar or getattr(annotation, "__name__", annotation)).lower()


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "**required**"
    if value is None or value is False or callable(value) or value in ("", (), []) or "UNSET" in repr(value):
        return ""
    return code(value)
