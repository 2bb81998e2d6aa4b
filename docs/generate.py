"""Write the reference pages from the code: ``python -m docs.generate`` (part of ``make docs``).

The pages go to ``docs/reference/generated``, which git ignores: they are as old as the build, never older than the code.
"""

from __future__ import annotations

import html
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from core.settings import ROOT, Settings, load_settings

GENERATED = ROOT / "docs" / "reference" / "generated"
STACK_PAGES = {
    "production-stack": "README.md",
    "runbook": "RUNBOOK.md",
    "threat-model": "SECURITY.md",
    "capacity": "CAPACITY.md",
}
"""Pages that are copies of files in ``docker/``."""

READ_DAGS = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
def assets(condition):
    if hasattr(condition, 'objects'):
        return sorted({name for each in condition.objects for name in assets(each)})
    return [condition.name] if hasattr(condition, 'name') else []
def order(dag):
    return ('by hand' in dag.tags, 'hourly' not in dag.tags, dag.fileloc, dag.dag_id)
print(json.dumps([{
    'id': dag.dag_id, 'tags': sorted(dag.tags), 'doc': dag.doc_md or '',
    'assets': assets(dag.timetable.asset_condition), 'max_active_runs': dag.max_active_runs,
    'params': [{'name': name, 'title': param.schema.get('title', ''), 'description': param.description or '',
                'default': param.value} for name, param in dag.params.items()],
    'tasks': [{'id': t.task_id, 'type': t.task_type, 'after': sorted(t.upstream_task_ids), 'doc': t.doc_md or '',
               'outlets': [o.name for o in t.outlets if hasattr(o, 'name')]} for t in dag.topological_sort()],
} for dag in sorted(bag.dags.values(), key=order)]))
"""


def main() -> None:
    """Write every page, and print how many."""
    write_pages(GENERATED)
    print(f"{len(PAGES)} reference pages in {GENERATED.relative_to(ROOT)}")


def write_pages(folder: Path) -> None:
    """Write every generated page.

    Args:
        folder: where to; made if it is missing. Files that are no page anymore are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(folder.glob("*.md")) - {folder / f"{name}.md" for name in PAGES}:
        stale.unlink()
    for name, page in PAGES.items():
        (folder / f"{name}.md").write_text(page().rstrip() + "\n", encoding="utf-8")


# --- Markdown


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""A Markdown table.

    >>> print(table(["a", "b"], [[1, "x|y"]]))
    | a | b |
    | --- | --- |
    | 1 | x\|y |
    """
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|").strip()


def code(value: object) -> str:
    """A value as inline code; an empty text stays empty."""
    text = str(value)
    return f"`{text}`" if text else ""


def prose(docstring: str) -> str:
    """A docstring as Markdown: double backticks become single, sections of the Google convention become bold."""
    text = inspect.cleandoc(docstring).replace("``", "`")
    text = re.sub(r"^(Args|Returns|Raises|Attributes):$", r"\n**\1**\n", text, flags=re.MULTILINE)
    lines = []
    in_section = False
    for line in text.splitlines():
        if line.startswith("**"):
            in_section = True
        elif line and not line.startswith(" "):
            in_section = False
        if in_section and re.match(r" {4}\S", line):
            head, colon, rest = line.strip().partition(": ")
            named = colon and re.fullmatch(r"[\w*, ]+", head)
            lines.append(f"- `{head}`: {rest}" if named else f"- {line.strip()}")
        else:
            lines.append(f"  {line.strip()}" if in_section and line.startswith("     ") else line)
    return "\n".join(lines)


def page(title: str, *parts: str) -> str:
    """A page with its title and the note that it is generated."""
    return "\n\n".join([f"# {title}", *(part.strip("\n") for part in parts if part.strip())])


# --- Models of pydantic


def type_of(schema: Mapping[str, Any]) -> str:  # noqa: PLR0911
    """Type of a JSON schema's property in words.

    >>> type_of({"anyOf": [{"type": "string"}, {"type": "null"}]})
    'string or null'
    >>> type_of({"type": "array", "items": {"enum": ["a", "b"]}})
    'list of a, b'
    """
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(type_of(one) for one in schema[key]))
    if "allOf" in schema:
        return " and ".join(type_of(one) for one in schema["allOf"])
    kind = schema.get("type", "any")
    if kind == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}: {', '.join(type_of(one) for one in schema['prefixItems'])}"
        return f"list of {type_of(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        names = schema.get("propertyNames", {})
        keys = f" ({', '.join(names['enum'])})" if "enum" in names else ""
        return f"map{keys} to {type_of(schema['additionalProperties'])}"
    return str(kind)


def limits_of(schema: Mapping[str, Any]) -> str:
    """Limits of a JSON schema's property, such as ``≥ 1, ≤ 10``."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    if "pattern" in schema:
        found.append(f"matches `{schema['pattern']}`")
    return ", ".join(found)


def default_of(schema: Mapping[str, Any], required: bool) -> str:
    """Default of a JSON schema's property, as JSON in inline code."""
    if required:
        return "**required**"
    return code(json.dumps(schema["default"], ensure_ascii=False)) if schema.get("default") not in (None, "") else ""


def schema_sections(schema: Mapping[str, Any], title: str) -> str:
    """Tables of a model's fields and of every model below it."""
    parts = []
    for name, model in {title: schema, **schema.get("$defs", {})}.items():
        parts.append(f"## {name}")
        parts.append(prose(model.get("description", "")))
        if "enum" in model:
            parts.append("One of " + ", ".join(code(value) for value in model["enum"]) + ".")
        required = set(model.get("required", ()))
        rows = [
            (code(key), type_of(field), default_of(field, key in required), limits_of(field), field.get("description", ""))
            for key, field in model.get("properties", {}).items()
        ]  # fmt: skip
        if rows:
            parts.append(table(["key", "type", "default", "limits", "meaning"], rows))
    return "\n\n".join(part for part in parts if part)


# --- Pages


def settings_page() -> str:
    """Every setting as its environment variable."""
    schema = Settings.model_json_schema()
    rows = []
    for name, field in schema["properties"].items():
        value = field.get("default")
        if name == "var":
            value = "var"
        shown = (
            ""
            if value in (None, "")
            else code(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value)
        )
        limits = (
            limits_of(field) if "pattern" not in field or len(field["pattern"]) > 60 else choices_of(field["pattern"])
        )
        kind = type_of(field)
        rows.append(
            (code(f"CLOCK_{name.upper()}"), kind, limits, shown, html.escape(field.get("description", ""), quote=False))
        )
    return page(
        "Settings",
        "Every setting is an environment variable. The platform reads it once, when a command or a service starts, and names "
        "every value that is wrong. A list or a map is written as JSON, for example "
        '`CLOCK_VARIANTS=\'["none", "matched_clock"]\'`.',
        table(["variable", "type", "limits", "default", "meaning"], rows),
        "`CLOCK_PROFILE=production` changes two defaults: the online store is Redis, and log lines are JSON.",
    )


def _printed(module: str, *arguments: str) -> str:
    """What a command line of the platform prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def choices_of(pattern: str) -> str:
    """A pattern of alternatives as a list, any other pattern as code.

    >>> choices_of("^(duckdb|spark)$")
    'duckdb, spark'
    """
    alternatives = re.fullmatch(r"\^\(?([\w|]+)\)?\$", pattern)
    return alternatives[1].replace("|", ", ") if alternatives else f"matches `{pattern}`"


def mapping_page() -> str:
    """The mapping file: commented example and schema."""
    from events.mapping import BUILTIN, load_mapping
    from events.mapping import Mapping as MappingFile

    names = sorted(path.stem for path in BUILTIN.glob("*.yaml"))
    builtin = [(code(name), load_mapping(name)[0].description) for name in names]
    return page(
        "Mapping file",
        "A mapping file says how the columns of a log become events. `clock events explain` prints this example:",
        f"```yaml\n{_printed('events', 'explain').strip()}\n```",
        "## Mappings that come with the platform",
        table(["name", "log"], builtin),
        "Each is tested on small files written in the log's published format.",
        schema_sections(MappingFile.model_json_schema(), "The file"),
    )


def experiment_page() -> str:
    """The experiment file, its example, its schema, and the built-in metrics."""
    from ab_analysis.experiment import Experiment
    from ab_analysis.metrics import load_catalog

    example = (ROOT / "ab_analysis" / "example.yaml").read_text(encoding="utf-8")
    catalog = [
        (code(name), metric.title, metric.definition, metric.unit, metric.better)
        for name, metric in load_catalog().items()
    ]
    return page(
        "Experiment file",
        "An experiment is a YAML file in `var/<source>/experiments`. The daily DAG finds it there. `clock ab init` prints this "
        "example; `clock ab schema` prints the JSON schema for an editor:",
        f"```yaml\n{example.strip()}\n```",
        "## Metrics catalog",
        "These metrics can be named in every experiment. A workspace adds its own in `var/<source>/metrics.yaml`, an experiment under "
        "`metrics`.",
        table(["name", "title", "definition", "unit", "better"], catalog),
        schema_sections(Experiment.model_json_schema(), "The file"),
    )  # fmt: skip


def policy_page() -> str:
    """The gate's policy: the built-in file and its schema."""
    from evaluation.gate import Policy

    return _built_in_file_page(
        "Policy file", "The policy says when a candidate becomes champion.", "evaluation/policy.yaml", Policy
    )


def ranker_page() -> str:
    """The ranker file: the built-in one and its schema."""
    from training.config import RankerFile

    return _built_in_file_page(
        "Ranker file", "The ranker file sets the model and how it learns.", "training/ranker.yaml", RankerFile
    )


def _built_in_file_page(title: str, purpose: str, file: str, model: type[BaseModel]) -> str:
    """A file that the platform brings and a workspace may replace."""
    path = ROOT / file
    return page(
        title,
        f"{purpose} This is the built-in one, `{file}`; a file `var/<source>/{path.name}` takes its place:",
        f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```",
        schema_sections(model.model_json_schema(), "The file"),
    )


def metrics_page() -> str:
    """Metrics of rankers, from their docstrings."""
    from evaluation import metrics

    module = prose(metrics.__doc__ or "")
    parts = []
    for name, function in inspect.getmembers(metrics, inspect.isfunction):
        if name.startswith("_") or function.__module__ != metrics.__name__ or not function.__doc__:
            continue
        signature = str(inspect.signature(function)).replace("'", "")
        parts.append(f"## {name}\n\n`{name}{signature}`\n\n{prose(function.__doc__)}")
    return page(
        "Metrics of rankers", module, "The metrics of experiments are in [Experiment file](experiment.md).", *parts
    )


def dags_page() -> str:
    """Every DAG: schedule, trigger form, tasks."""
    parts = []
    for dag in read_dags():
        if dag["assets"]:
            when = f"when a partition of {', '.join(map(code, dag['assets']))} is updated"
        elif "by hand" in dag["tags"]:
            when = "started by a person"
        else:
            when = (
                "with `CLOCK_LIVE=true`: five past every hour for the hour before; else triggered with a partition key"
            )
        doc = re.sub(r"^#+ (.+)$", r"**\1**", inspect.cleandoc(dag["doc"]), flags=re.MULTILINE)
        doc = re.sub(r"^(\*\*.+\*\*)$", r"\1\n", doc, flags=re.MULTILINE)
        tasks = [
            (code(t["id"]), t["doc"], ", ".join(map(code, t["after"])), ", ".join(map(code, t["outlets"])))
            for t in dag["tasks"]
        ]
        params = [(code(p["name"]), p["title"], p["description"], code(p["default"] or "")) for p in dag["params"]]
        parts += [
            f"## {dag['id']}", doc, f"Schedule: {when}. At most {dag['max_active_runs']} run at a time.",
            table(["task", "note", "after", "updates asset"], tasks),
            table(["parameter", "title", "meaning", "default"], params) if params else "",
        ]  # fmt: skip
    return page(
        "DAGs",
        "Read from the files in `dags/` by Airflow's own parser. Tasks call one typed function each; the same functions run "
        "without Airflow through the [command line](command-line.md).",
        *parts,
    )


def read_dags() -> list[dict[str, Any]]:
    """What Airflow reads in ``dags/``, in a process of its own, whose database is a temporary file."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ, "AIRFLOW_HOME": home, "PYTHONPATH": str(ROOT), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db", "PYTHONWARNINGS": "ignore",
            "CLOCK_VAR": home,
        }  # fmt: skip
        environment.pop("CLOCK_LIVE", None)
        done = subprocess.run(
            [sys.executable, "-c", READ_DAGS, str(ROOT / "dags")],
            env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the DAGs cannot be read:\n{done.stderr[-2000:]}")
    dags: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return dags


def rest_page() -> str:
    """The ranking service's endpoints, from its OpenAPI document."""
    from serving.api import make_app

    with tempfile.TemporaryDirectory() as folder:
        document = make_app(load_settings(var=Path(folder))).openapi()
    rows, parts = [], []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            rows.append((code(f"{method.upper()} {path}"), operation.get("description", operation.get("summary", ""))))
    schemas = document.get("components", {}).get("schemas", {})
    for name, schema in schemas.items():
        if name not in {"HTTPValidationError", "ValidationError"}:
            local = json.loads(json.dumps(schema).replace("#/components/schemas/", "#/$defs/"))
            parts.append(schema_sections(local, name))
    return page(
        "REST API",
        "The ranking service describes itself at `/docs` and `/openapi.json` while it runs. `clock serve run` starts it.",
        table(["endpoint", "what it answers"], rows),
        "Every error is a JSON object `{\"error\": reason}`. A request that is wrong answers 422 with all its problems, one that is no "
        "JSON 400, one without the key 401, a body that is too large 413. A full queue, or a service without a champion, answers "
        "503 with `Retry-After`; one that takes too long 504.",
        *parts,
    )  # fmt: skip


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


def stack_page(name: str) -> Callable[[], str]:
    """A page that is a copy of a file in ``docker/``; links between those files go to their pages."""

    def copied() -> str:
        text = (ROOT / "docker" / STACK_PAGES[name]).read_text(encoding="utf-8")
        for target, file in STACK_PAGES.items():
            text = text.replace(f"]({file})", f"]({target}.md)")
        return re.sub(r"(?<=[^\n])\n(#+ )", r"\n\n\1", text)

    return copied


PAGES: dict[str, Callable[[], str]] = {
    "command-line": commands_page,
    "settings": settings_page,
    "mapping": mapping_page,
    "experiment": experiment_page,
    "policy": policy_page,
    "ranker": ranker_page,
    "metrics": metrics_page,
    "dags": dags_page,
    "rest-api": rest_page,
    **{name: stack_page(name) for name in STACK_PAGES},
}
"""File name without its suffix → what writes the page."""

if __name__ == "__main__":
    main()
