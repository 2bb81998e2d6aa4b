"""The page of an experiment's plan: how long it must run, what it finds, whom it shares its users with, its file."""

from __future__ import annotations

from pathlib import Path

from ab_analysis.preview import ExperimentPreview
from core.charts import SERIES, SOFT, Chart, chart_scripts
from core.page_table import Cell, Column, Group, Row, Table
from core.page_template import INTERACTIVE, share, write_page
from core.settings import Settings

TEMPLATE = Path(__file__).with_name("plan.html")
ROLES = {"primary": "Primary", "guardrail": "Guardrails", "secondary": "Secondary"}


def plan_path(settings: Settings, name: str) -> Path:
    """Where the page of an experiment's plan stands."""
    return settings.reports_dir / "ab" / name / "plan.html"


def write_plan_page(settings: Settings, preview: ExperimentPreview, text: str, state: str) -> Path:
    """Write the page of a plan.

    Args:
        settings: name the workspace.
        preview: the plan.
        text: of the experiment file.
        state: a sentence on whether it is saved.
    """
    experiment = preview.plan.experiment
    path = plan_path(settings, experiment.name)
    titles = metric_titles(preview)
    write_page(
        path, f"Plan of {experiment.name}", TEMPLATE.read_text(encoding="utf-8"), home="../../index.html",
        scripts=(INTERACTIVE, chart_scripts(settings.var)),
        experiment=experiment, preview=preview, text=text, state=state,
        sentences=[(titles[m], preview.sentence(m)) for m in experiment.primary],
        table=forecast_table(preview) if preview.forecasts else None, overlaps=overlap_table(preview) if preview.overlaps else None,
        chart=_chart(preview, titles),
    )  # fmt: skip
    return path


def metric_titles(preview: ExperimentPreview) -> dict[str, str]:
    """Metric → its title for people."""
    return {name: m.title or name.replace("_", " ") for name, m in preview.plan.metrics.items()}


def forecast_table(preview: ExperimentPreview) -> Table:
    """A row for every metric and length, primary metrics first."""
    experiment, titles = preview.plan.experiment, metric_titles(preview)
    columns = [
        Column("metric"), Column("days"), Column("users", "In all variants together"),
        Column("smallest effect found", "Relative to the control, with the power that was asked for"),
        Column(f"power for {_percent(experiment.minimum_effect)}"), Column("users needed"),
        Column("needed without CUPED"), Column("CUPED saves", "Share of the variance that the users' past explains"),
    ]  # fmt: skip
    rows: list[Row | Group] = []
    for role, heading in ROLES.items():
        forecasts = [f for f in preview.forecasts if experiment.role(f.row.metric) == role]
        if forecasts:
            rows.append(Group(heading))
        for forecast in forecasts:
            r, plain = forecast.row, forecast.plain.users_needed
            tone = "good" if forecast.is_enough else "bad"
            rows.append(
                Row(
                    [
                        titles[r.metric], Cell(str(r.days), sort=r.days), Cell(f"{r.users:,}", sort=r.users),
                        Cell(f"{r.detectable:.2%}", sort=r.detectable), Cell(share(r.power), tone, sort=r.power),
                        Cell(f"{r.users_needed:,}", sort=r.users_needed), Cell(f"{plain:,}", sort=plain),
                        Cell(share(r.variance_reduction), sort=r.variance_reduction),
                    ],
                    strong=r.days == preview.planned,
                )
            )  # fmt: skip
    return Table(columns, rows, name="plan")


def overlap_table(preview: ExperimentPreview) -> Table:
    """A row for every other experiment on the same days."""
    columns = [
        Column("experiment"), Column("shared users", "Share of this experiment's users who are in the other one too"),
        Column("days in common", words=True), Column("both decide by", words=True),
    ]  # fmt: skip
    return Table(
        columns,
        [
            Row([o.name, share(o.shared), f"{o.from_day} to {o.to_day or 'open'}", ", ".join(o.metrics) or "nothing"])
            for o in preview.overlaps
        ],
    )


def plan_markdown(preview: ExperimentPreview, page: str) -> str:
    """The plan in short, as Airflow shows it to the person who decides.

    Args:
        preview: the plan.
        page: where its page is.
    """
    titles = metric_titles(preview)
    lines = [f"**{titles[m]}**: {preview.sentence(m)}." for m in preview.plan.experiment.primary]
    lines += [
        f"Runs beside **{o.name}**, which has {share(o.shared)} of its users too." for o in preview.overlaps if o.shared
    ]
    return "\n\n".join([*lines, *preview.warnings, f"[The plan in full, with the file]({page})"])


def _chart(preview: ExperimentPreview, titles: dict[str, str]) -> Chart | None:
    from core.vega import alt, inline_data

    experiment = preview.plan.experiment
    primary = [f for f in preview.forecasts if experiment.role(f.row.metric) == "primary"]
    if len({f.row.days for f in primary}) < 2:
        return None
    points = [
        {"metric": titles[f.row.metric], "days": f.row.days, "effect": f.row.detectable, "users": f.row.users}
        for f in primary
    ]
    names = list(dict.fromkeys(str(point["metric"]) for point in points))
    base = alt.Chart(inline_data(points)).encode(
        x=alt.X("days:Q", title="days", axis=alt.Axis(values=preview.days, format="d"), scale=alt.Scale(zero=False)),
        y=alt.Y("effect:Q", title="smallest effect found", axis=alt.Axis(format="%")),
        color=alt.Color(
            "metric:N", title=None, scale=alt.Scale(domain=names, range=[SERIES[n % len(SERIES)] for n in range(len(names))])
        ),
        tooltip=[
            alt.Tooltip("metric:N"), alt.Tooltip("days:Q"), alt.Tooltip("effect:Q", title="smallest effect found", format=".2%"),
            alt.Tooltip("users:Q", format=","),
        ],
    )  # fmt: skip
    asked = alt.Chart(inline_data([{"effect": experiment.minimum_effect}])).encode(y="effect:Q")
    drawing = alt.layer(
        asked.mark_rule(strokeDash=[4, 3], color=SOFT), base.mark_line(), base.mark_circle(size=50, opacity=1)
    ).properties(width="container", height=220)
    return Chart(
        drawing,
        "Smallest effect that experiments of each length find, by primary metric; the figures are in the table below.",
        f"The smallest effect that each length finds; dashed: the {_percent(experiment.minimum_effect)} that was asked for.",
    )


def _percent(value: float) -> str:
    return f"{value * 100:.3g} %"
