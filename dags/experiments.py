"""What an analyst does with experiments by forms: define one, seeing its plan before it is saved; stop, extend, conclude it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import yaml
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, get_current_context

from core.documents import JsonObject
from core.errors import ConfigError
from core.hours import parse_day
from core.settings import ROOT, load_settings
from dags.common import DEFAULTS, optional_param, step
from dags.links import link_page, page_step

APPROVAL_DEADLINE = timedelta(days=7)
DRAFTS = 16
"""Drafts that may wait for somebody's approval at the same time."""
BY_FORM: dict[str, Any] = {
    "schedule": None,
    "catchup": False,
    "default_args": {**DEFAULTS, "retries": 0},
    "tags": ["by hand", "experiments"],
}
WHAT, WHO, WHEN, METRICS, DECISION = (
    "What is tested",
    "On whom",
    "When",
    "By which metrics",
    "How the result is read",
)


def metric_titles() -> dict[str, str]:
    """Name → title of every metric of the catalog and of the workspace's file; a file that is wrong is said by the run, not here."""
    titles: dict[str, str] = {}
    for path in (ROOT / "ab_analysis" / "metrics.yaml", load_settings().workspace / "metrics.yaml"):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, dict):
            titles |= {
                str(name): str((metric.get("title") if isinstance(metric, dict) else "") or name)
                for name, metric in content.items()
            }
    return titles


def experiment_names() -> list[str]:
    """Names of the workspace's experiment files."""
    return sorted(path.stem for path in load_settings().experiments_dir.glob("*.yaml"))


def metrics_param(default: list[str], title: str, description: str, *, optional: bool = True) -> Param:
    """A field in which metrics of the catalog are chosen."""
    titles = {
        name: name if title in {name, name.replace("_", " ")} else f"{title} ({name})"
        for name, title in metric_titles().items()
    }
    return Param(
        default,
        type=["array", "null"] if optional else "array",
        items={"type": "string"},
        title=title,
        description=description,
        section=METRICS,
        examples=list(titles),
        values_display=titles,
    )


def percent_param(default: float, title: str, description: str, section: str, **limits: Any) -> Param:
    """A field for a percentage."""
    return Param(default, type="number", title=f"{title} (%)", description=description, section=section, **limits)


def reason_param(**schema: Any) -> Param:
    """The field for why something is changed."""
    text = "Kept with the change, and shown on the experiment's page."
    return Param(type="string", minLength=5, title="Why", description=text, **schema)


def lines_param(default: list[str], title: str, description: str, section: str) -> Param:
    """A field with an entry a line."""
    return Param(default, type="array", items={"type": "string"}, title=title, description=description, section=section)


def sections(section: str, **params: Param) -> dict[str, Param]:
    """Fields of one section of a form."""
    for param in params.values():
        param.schema["section"] = section
    return params


DEFINITION: dict[str, Param] = {
    **sections(
        WHAT,
        name=Param(
            type="string",
            pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$",
            title="Name",
            description="Lower-case letters, digits, - and _. It becomes the file's name and chooses the split.",
        ),
        hypothesis=Param(
            "",
            type=["null", "string"],
            format="multiline",
            title="Hypothesis",
            description="What should change, and why.",
        ),
        owner=optional_param("Owner", r"^.*$", "Who answers for it."),
    ),
    **sections(
        WHO,
        variants=lines_param(
            ["control: 50", "treatment: 50"], "Variants", "One a line with its share; the first is the control.", WHO
        ),
        holdout=Param(
            False,
            type="boolean",
            title="Holdout",
            description="The control meets no other experiment: shows what all that is tried and shipped adds up to.",
        ),
        layer=optional_param(
            "Layer", r"^[a-z0-9_-]*$", "Experiments of one layer divide the users among them. Empty: all users."
        ),
        layer_from=percent_param(0, "Its users from", "", WHO, minimum=0, maximum=100),
        layer_to=percent_param(100, "Its users to", "", WHO, minimum=0, maximum=100),
        models=lines_param(
            [],
            "Models",
            "If the platform serves it: one a line, such as control: champion, treatment: challenger.",
            WHO,
        ),
        automatic_stop=Param(
            False,
            type="boolean",
            title="Stop by itself",
            description="Look every hour; when one of its variants does harm, serve the champion to everybody.",
        ),
        population=optional_param(
            "Only users with", r"^.*$", "SQL over what was known before, such as active_days_pre >= 1."
        ),
        trigger=optional_param("Counted from", r"^.*$", "SQL over an event, such as local_hour BETWEEN 6 AND 9."),
    ),
    **sections(
        WHEN,
        start=Param(type="string", format="date", title="First day", description="UTC."),
        end=Param(
            None,
            type=["null", "string"],
            format="date",
            title="Last day",
            description="Whole weeks are best. Empty: open.",
        ),
        pre_days=Param(
            14,
            type="integer",
            minimum=0,
            maximum=365,
            title="Days before",
            description="From which covariates and segments come.",
        ),
    ),
    "primary": metrics_param(
        ["active_days", "duration_hours"], "Primary metrics", "The decision rests on these.", optional=False
    ),
    "secondary": metrics_param(["finishes", "likes"], "Secondary metrics", "Shown beside; they block nothing."),
    "guardrails": metrics_param(["skip_rate"], "Guardrails", "They may not get worse by more than the limit below."),
    "max_worse": percent_param(2, "Worse by at most", "Of the control's value.", METRICS, minimum=0, maximum=99),
    **sections(
        DECISION,
        minimum_effect=percent_param(
            1, "Smallest effect worth finding", "Relative to the control.", DECISION, exclusiveMinimum=0
        ),
        rule=Param(
            "always_valid",
            type="string",
            enum=["always_valid", "group_sequential", "fixed"],
            title="Stopping rule",
            values_display={
                "always_valid": "look on any day, without an end",
                "group_sequential": "look on any day up to the last one",
                "fixed": "one look, at the end",
            },
        ),
        power=percent_param(
            80, "Power", "Chance of finding that effect.", DECISION, exclusiveMinimum=50, exclusiveMaximum=100
        ),
        confidence=percent_param(95, "Confidence", "Of the intervals.", DECISION, exclusiveMinimum=50, maximum=99.99),
        further=Param(
            None,
            type=["null", "string"],
            format="multiline",
            title="Further keys",
            description="Of the experiment file, as YAML, such as: segments: {activity: {of: active_days, edges: [1, 4]}}",
        ),
    ),
}


def submitted() -> tuple[str, str, bool]:
    """Text of the file that the running task's form describes, why, and whether it may replace another one."""
    from ab_analysis.form import ExperimentForm

    values: JsonObject = dict(get_current_context()["params"])
    why, replace = str(values.pop("why")), bool(values.pop("replace"))
    return ExperimentForm.read(values).text(), why, replace


def person(task_id: str | None = None) -> str:
    """Name of who triggered the run, or who answered one of its tasks."""
    context = get_current_context()
    answer = context["ti"].xcom_pull(task_ids=task_id) if task_id else None
    user = (answer or {}).get("responded_by_user") or {}
    return str(user.get("name") or user.get("id") or context["dag_run"].triggering_user_name or "not known")


with DAG(
    "define_experiment",
    max_active_runs=DRAFTS,
    params={
        **DEFINITION,
        "why": reason_param(section=WHAT),
        "replace": Param(
            False,
            type="boolean",
            title="Replace",
            description="The experiment of this name that exists.",
            section=WHAT,
        ),
    },
    doc_md="""
### Define an experiment
Fill in the form. `plan` checks it and plans it on the log's own past: how many users it would have, the effect each length
finds, what CUPED saves, which experiments it shares users with. Its page is linked from the task. `approve` then shows the
plan in short under Required Actions and waits for a week; approved, the experiment's file is saved, exactly as a person
would have written it, and the change is kept with who, when and why. Rejected, nothing is saved.
""",
    **BY_FORM,
):

    @page_step()
    def plan() -> JsonObject:
        from pipeline.experiment_changes import plan_experiment

        text, _, replace = submitted()
        planned = plan_experiment(load_settings(), text, replace=replace)
        link_page(planned.page)
        return {"page": str(planned.page), "summary": planned.summary}

    @step()
    def save() -> JsonObject:
        from pipeline.experiment_changes import define_experiment

        text, why, replace = submitted()
        return asdict(define_experiment(load_settings(), text, person("approve"), why, replace=replace))

    @step()
    def link_experiment() -> str:
        from pipeline.reports import list_experiments

        return list_experiments(load_settings())

    approve = ApprovalOperator(
        task_id="approve",
        subject="Save the experiment {{ params.name }}?",
        body="{{ ti.xcom_pull('plan')['summary'] }}",
        response_timeout=APPROVAL_DEADLINE,
        defaults=ApprovalOperator.REJECT,
        doc_md="Whoever approves is recorded as the one who defined the experiment.",
    )
    plan() >> approve >> save() >> link_experiment()

with DAG(
    "change_experiment",
    max_active_runs=1,
    params={
        "experiment": Param(type="string", minLength=1, title="Experiment", examples=experiment_names()),
        "action": Param(
            "stop",
            type="string",
            enum=["stop", "extend", "conclude"],
            title="What to do",
            values_display={
                "stop": "stop it: nobody is exposed any more",
                "extend": "extend it to a later last day",
                "conclude": "conclude it: write down what was decided",
            },
        ),
        "day": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Last day (UTC)",
            description="To extend: the new one. To stop: the last that counts; empty: the last one of the log.",
        ),
        "outcome": Param(
            "inconclusive",
            type="string",
            enum=["shipped", "not_shipped", "inconclusive"],
            title="Outcome",
            description="To conclude.",
            values_display={
                "shipped": "shipped",
                "not_shipped": "not shipped",
                "inconclusive": "inconclusive",
            },
        ),
        "why": reason_param(),
    },
    doc_md="""
### Stop, extend or conclude an experiment
The change is made in the experiment's file, all else in it stays as it is, and is kept with who, when and why. What changes
after an experiment has begun is flagged on its page. A stopped experiment keeps its plan: its result is read by the rule
that it began with. To undo a stop or a conclusion, take the line out of the file; of an experiment that serves, run
`clock serve resume EXPERIMENT` too.
""",
    **BY_FORM,
):

    @step()
    def change() -> JsonObject:
        from pipeline.experiment_changes import conclude, extend, stop_early

        settings, values = load_settings(), get_current_context()["params"]
        who, name, why = person(), str(values["experiment"]), str(values["why"])
        day = parse_day(values["day"]) if values["day"] else None
        if values["action"] == "conclude":
            return asdict(conclude(settings, name, who, values["outcome"], why))
        if values["action"] == "stop":
            return asdict(stop_early(settings, name, who, why, day))
        if day is None:
            raise ConfigError("extend: give the new last day")
        return asdict(extend(settings, name, who, why, day))

    @page_step()
    def report() -> JsonObject | None:
        from pipeline.reports import report_change

        written = report_change(load_settings(), str(get_current_context()["params"]["experiment"]))
        link_page(written.page)
        return asdict(written.summary) if written.summary else None

    change() >> report()
