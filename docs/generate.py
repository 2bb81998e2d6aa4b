"""Write the reference pages from the code: ``python -m docs.generate`` (part of ``make docs``).

The pages go to ``docs/reference/generated``, which git ignores, so that they never differ from the code.
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
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from core.settings import ROOT, Settings, load_settings
from docs.command_line import commands_page
from docs.dag_pages import dags_page
from docs.json_schemas import choices_of, limits_of, schema_sections, type_of
from docs.markdown import code, page, prose, table

GENERATED = ROOT / "docs" / "reference" / "generated"
STACK_PAGES = {
    "production-stack": "README.md",
    "runbook": "RUNBOOK.md",
    "threat-model": "SECURITY.md",
    "capacity": "CAPACITY.md",
}
"""Pages that are copies of files in ``docker/``."""


def main() -> None:
    """Write every page, and print how many."""
    write_pages(GENERATED)
    print(f"{len(PAGES)} reference pages in {GENERATED.relative_to(ROOT)}")


def write_pages(folder: Path) -> None:
    """Write every generated page.

    Args:
        folder: where to; created if it is missing. Files of pages that no longer exist are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(folder.glob("*.md")) - {folder / f"{name}.md" for name in PAGES}:
        stale.unlink()
    for name, build in PAGES.items():
        (folder / f"{name}.md").write_text(build().rstrip() + "\n", encoding="utf-8")


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
        type_name = type_of(field)
        rows.append(
            (
                code(f"CLOCK_{name.upper()}"),
                type_name,
                limits,
                shown,
                html.escape(field.get("description", ""), quote=False),
            )
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
    from evaluation.policy import Policy

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
    """The page of a file that comes with the platform and that a workspace may replace."""
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
