"""The hour: ingest its log, bring the clocks up to date, train on it, let the gate decide."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, get_current_context

from core.documents import JsonObject
from dags.common import (
    CHAMPION,
    CLOCKS,
    DEFAULTS,
    EVENTS,
    STATES,
    announce_day,
    deadline,
    hour_param,
    hourly,
    ingest_schedule,
    settings_and_hour,
    step,
)
from dags.links import link_page, page_branch

APPROVAL_DEADLINE = timedelta(hours=12)
APPROVE, REJECT = "Approve", "Reject"

with DAG(
    "ingest_hour",
    schedule=ingest_schedule(),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    deadline=deadline("ingest_hour"),
    params={"hour": hour_param("Hour whose log is ingested.")},
    tags=["hourly"],
    doc_md="""
### Ingest an hour
Reads the hour's log, checks every row, and writes the hour's partition (`events`). Bad rows are quarantined
with a reason; rows seen before are dropped; late rows land in their true hour. Running an hour again changes
nothing. The clocks, the training and the gate follow for the same hour, however the run was started. For a range of hours
trigger `backfill_hours`. `watch_experiments` then looks at experiments that serve, and stops one that does harm
(`automatic_stop`); it waits for neither the training nor a person's approval.
**If it waits**: the hour's file has not arrived; the task's log names it.
""",
):

    @step(outlets=[EVENTS], doc_md="One call of the ingestion; the account is the task's result.")
    def ingest() -> JsonObject:
        from pipeline.source import ingest_hour

        account = asdict(ingest_hour(*settings_and_hour()))
        return {**account, "changed_hours": len(account["changed_hours"])}

    @step()
    def watch_experiments() -> list[JsonObject]:
        from pipeline.experiments import watch_experiments as watch

        return [asdict(look) for look in watch(*settings_and_hour())]

    ingest() >> watch_experiments()

with DAG(
    "materialize_clock",
    schedule=hourly(EVENTS),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    deadline=deadline("materialize_clock"),
    params={"hour": hour_param("Hour after which the clocks shall hold.")},
    tags=["hourly"],
    doc_md="""
### Bring the clocks up to date
Adds the hour that ended to every user's interest clock, takes off the hour that left the 30-day window,
corrects what late events touched, and writes the changed slots to Feast's online store. An hour is never
skipped: a gap is named in the log and filled first.
""",
):

    @step(outlets=[CLOCKS])
    def refresh_and_materialize() -> JsonObject:
        from feature_repo.materialization import advance

        settings, hour = settings_and_hour()
        return asdict(advance(settings, hour + 1))

    refresh_and_materialize()

with DAG(
    "train_ranker",
    schedule=hourly(CLOCKS),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    deadline=deadline("train_ranker"),
    params={"hour": hour_param("Last hour to train on; hours before it that are missing are trained first.")},
    tags=["hourly"],
    doc_md="""
### Train on an hour
Every variant is tested on the hour first and then trained on it, once, from its last state. Metrics, lineage
and models go to MLflow: one experiment per variant, one run per day, one step per hour. Running an hour again gives the
same state. With `CLOCK_TRAIN_PROCESSES` above 1 several processes train each variant together; the log names one that fails.
`watch_champion` then rolls a champion back that falls behind its predecessor; it waits for no person's approval.
**To undo a promotion** trigger `rollback_champion`.
""",
):

    @step(outlets=[STATES], max_active_tis_per_dag=1)
    def test_then_train() -> list[JsonObject]:
        from pipeline.training import train_hour

        return [trained.as_json() for trained in train_hour(*settings_and_hour())]

    @step()
    def watch_champion() -> JsonObject | None:
        from pipeline.promotion import watch_champion as watch

        move = watch(*settings_and_hour())
        return asdict(move) if move else None

    test_then_train() >> watch_champion()

with DAG(
    "promote_ranker",
    schedule=hourly(STATES),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    deadline=deadline("promote_ranker"),
    params={"hour": hour_param("Hour up to which candidate and champion are compared.")},
    tags=["hourly", "promotion"],
    doc_md="""
### Gate and promotion
Compares the candidate with the champion on hours that neither was trained on, by the policy in
`evaluation/policy.yaml`, and moves the `champion` alias in MLflow only if the candidate is better. The
decision with all its figures is a report page. Where the policy wants a person (`require_approval`, or too much
drift), the task `approve` waits under Required Actions; rejected, or without an answer in 12 hours, nothing is promoted, and a newer
candidate takes the challenger's place. Where the champion was rolled back while the gate looked at it, the next hour decides.
`announce_hour` tells the day's report which hours of the day are through, each once: it ends as skipped where all were announced
before.
""",
):

    @page_branch(doc_md="The decision is the XCom `decision`; what follows is the task's result.")
    def evaluate_candidate() -> str:
        from pipeline.promotion import decision_page
        from pipeline.promotion import evaluate_candidate as evaluate

        settings, hour = settings_and_hour()
        decision = evaluate(settings, hour)
        link_page(decision_page(settings, hour))
        get_current_context()["ti"].xcom_push("decision", decision.as_json())
        return "approve" if decision.verdict == "needs_person" else "apply_decision"

    @step(trigger_rule="none_failed_min_one_success")
    def apply_decision() -> list[JsonObject]:
        from evaluation.gate_decision import GateDecision
        from pipeline.promotion import apply_decision as apply

        ti = get_current_context()["ti"]
        decided = GateDecision.from_json(ti.xcom_pull(task_ids="evaluate_candidate", key="decision"))
        answer = ti.xcom_pull(task_ids="approve") or {}  # nothing where nobody was asked
        approved = answer.get("chosen_options") == [APPROVE]
        return [asdict(move) for move in apply(*settings_and_hour(), decided, approved=approved)]

    @step(inlets=[CHAMPION], outlets=[CHAMPION], trigger_rule="none_failed")
    def announce_hour() -> None:
        announce_day(CHAMPION, *settings_and_hour(announce=False))

    approve = HITLOperator(  # not Airflow's operator for approvals: a rejection, too, lets `apply_decision` put the next one up
        task_id="approve",
        options=[APPROVE, REJECT],
        subject="Promote {{ ti.xcom_pull('evaluate_candidate', key='decision')['candidate']['variant'] }}?",
        body="{{ ti.xcom_pull('evaluate_candidate', key='decision')['reason'] }}",
        defaults=REJECT,
        response_timeout=APPROVAL_DEADLINE,
        doc_md="A person decides. Rejected, or without an answer in time, nothing is promoted.",
    )
    applied = apply_decision()
    evaluate_candidate() >> [approve, applied]
    approve >> applied >> announce_hour()
