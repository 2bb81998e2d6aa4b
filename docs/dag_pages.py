"""The reference page of the DAGs, from what Airflow reads in ``dags/``."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile

from core.documents import JsonObject
from core.settings import ROOT
from docs.markdown import code, page, table

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
                'default': param.value if param.has_value else None} for name, param in dag.params.items()],
    'tasks': [{'id': t.task_id, 'type': t.task_type, 'after': sorted(t.upstream_task_ids), 'doc': t.doc_md or '',
               'outlets': [o.name for o in t.outlets if hasattr(o, 'name')]} for t in dag.topological_sort()],
} for dag in sorted(bag.dags.values(), key=order)]))
"""


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


def read_dags() -> list[JsonObject]:
    """What Airflow reads in ``dags/``, in a separate process, whose database is a temporary file."""
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
    dags: list[JsonObject] = json.loads(done.stdout.splitlines()[-1])
    return dags
