"""The stack's files: what Compose, Prometheus, Grafana and Kubernetes would refuse is detected here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.secret_files import SECRETS
from core.settings import ROOT, Settings
from operations.prepare import IMAGE_USER, prepare
from operations.services import all_services
from tests.operations.stack import ORDER, compose, interpolate

DOCKER = ROOT / "docker"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
PLATFORM = (*ORDER, "init", "streaming")


def test_every_service_of_the_production_profile_is_in_the_compose_file_and_runs_as_itself(tmp_path: Path) -> None:
    from core.settings import load_settings

    prepare(tmp_path, "localhost")
    settings = load_settings(
        var=tmp_path / "var", profile="production", secrets_dir=tmp_path / "secrets", public_url="https://localhost",
        airflow_url="http://airflow-api-server:8080", mlflow_uri="http://mlflow:5000/mlflow", postgres="postgres:5432",
        redis_url="redis:6379", object_store="http://objects:8333",
    )  # fmt: skip
    services = compose()["services"]
    assert {s.name for s in all_services(settings)} == set(ORDER)
    with_lane = all_services(settings.model_copy(update={"streaming": True}))
    assert {s.name for s in with_lane} == {*ORDER, "streaming"}
    for name in (*ORDER, "streaming"):
        assert services[name]["command"] == ["service", name]


def test_containers_are_locked_down_and_have_only_their_own_secrets() -> None:
    file = compose()
    assert set(file["secrets"]) == {*SECRETS, "tls_certificate", "tls_key"}
    for name in PLATFORM:
        service = file["services"][name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["networks"] == ["inside"], name
        assert "ports" not in service, name
    for name, service in file["services"].items():
        assert set(service.get("secrets", ())) <= set(file["secrets"]), name
        assert set(service.get("depends_on", ())) <= set(file["services"]), name
        assert service["profiles"][0] in {"core", "spark", "monitoring", "streaming"}, name
        assert ":latest" not in service["image"] or "interest-clock" in service["image"], name
    holders = {s for s in file["services"] if "postgres_admin" in file["services"][s].get("secrets", ())}
    assert holders == {"postgres", "init"}
    assert file["networks"]["inside"]["internal"] is True
    assert [n for n, s in file["services"].items() if "ports" in s] == ["proxy"]


def test_compose_wants_what_make_secrets_writes(tmp_path: Path) -> None:
    made = prepare(tmp_path, "clock.example.com")
    assert {*SECRETS, "tls_certificate", "tls_key", ".env"} == set(made)
    assert prepare(tmp_path, "other.example.com") == [], "nothing is overwritten"
    assert all((tmp_path / "secrets" / name).stat().st_mode & 0o077 == 0 for name in SECRETS)
    values = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    assert values["CLOCK_UID"] == str(os.getuid() or IMAGE_USER), "no container runs as root"
    assert {p.stat().st_uid for p in (tmp_path / "secrets").iterdir()} == {int(values["CLOCK_UID"])}
    assert "https://clock.example.com:8443" in interpolate((DOCKER / "compose.yaml").read_text(), values)
    with pytest.raises(AssertionError, match="run make secrets"):
        interpolate((DOCKER / "compose.yaml").read_text(), {})


def test_the_image_copies_every_package_that_the_services_import() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (\w+) /app/\w+$", text, re.MULTILINE))
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests", "docs", "benchmarks"}
    assert copied == packages
    ignored = (ROOT / ".dockerignore").read_text()
    assert all(f"!{name}\n" in ignored for name in packages)
    assert re.search(r"^USER 50000:50000$", text, re.MULTILINE)
    assert not re.search(r":latest|ADD |sudo", text)
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", text, re.MULTILINE)
    assert [s[1] for s in stages] == ["build", "platform"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "file", "right", "wrong"),
    [
        (("hadolint",), "Dockerfile", "USER 50000:50000", "USER root"),
        (("check-jsonschema", "--builtin-schema", "vendor.compose-spec"), "compose.yaml", "restart:", "restarts:"),
        (("kubernetes-validate", "--strict"), "kubernetes/platform.yaml", "containers:", "container:"),
    ],
)
def test_files_keep_to_what_their_readers_take(
    tool: tuple[str, ...], file: str, right: str, wrong: str, tmp_path: Path
) -> None:
    """By the tools that know the formats; each finds a mistake that is put in."""
    command = [str(Path(sys.executable).parent / tool[0]), *tool[1:]]
    done = subprocess.run([*command, DOCKER / file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (DOCKER / file).read_text()
    assert right in text
    (tmp_path / Path(file).name).write_text(text.replace(right, wrong))
    assert subprocess.run([*command, tmp_path / Path(file).name], capture_output=True, check=False).returncode


def test_the_image_leaves_out_the_tools_of_the_tests() -> None:
    installed = re.findall(r"requirements[a-z-]*\.txt", (DOCKER / "Dockerfile").read_text())
    assert set(installed) == {"requirements-production.txt", "requirements-spark.txt", "requirements-distributed.txt"}
    names = {re.split(r"[=\[]", line)[0] for name in installed for line in (ROOT / name).read_text().splitlines()}
    assert {"apache-airflow", "mlflow", "feast", "torch", "redis", "pyspark"} <= names
    assert not names & {"pytest", "hypothesis", "playwright", "ruff", "bandit", "moto"}


def test_the_pins_of_the_extras_agree() -> None:
    pins = {
        path.name: dict(line.split("==") for line in path.read_text().splitlines())
        for path in ROOT.glob("requirements*.txt")
        if path.name not in {"requirements-docs.txt", "requirements-audit.txt", "requirements-distributed.txt"}
    }
    everything = pins["requirements-dev.txt"]
    assert len(pins) == 5
    for name, versions in pins.items():
        assert versions.items() <= everything.items(), name


def test_pins_name_no_registry_and_no_folder() -> None:
    for path in ROOT.glob("requirements*.txt"):
        assert "/" not in path.read_text(), path


def test_every_alert_has_its_section_in_the_runbook() -> None:
    rules = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
    alerts = [r["alert"] for g in rules["groups"] for r in g["rules"]]
    text = (DOCKER / "RUNBOOK.md").read_text()
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == alerts
    sections = re.split(r"^## ", text.split("# Other work")[0], flags=re.MULTILINE)[1:]
    assert all(s.count("**") == 6 and "**Meaning.**" in s and "**Do.**" in s for s in sections)


def test_prometheus_takes_the_rules() -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("Prometheus is not installed (make services)")
    done = subprocess.run(
        [program, "check", "rules", DOCKER / "prometheus" / "alerts.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboards_are_complete() -> None:
    for path in (DOCKER / "grafana" / "dashboards").glob("*.json"):
        board: dict[str, Any] = json.loads(path.read_text())
        assert board["uid"] == path.stem
        ids = [p["id"] for p in board["panels"]]
        assert len(ids) == len(set(ids))
        assert all(p["title"] and p["targets"] for p in board["panels"])


CHART_PARTS = ("apiServer", "scheduler", "dagProcessor", "triggerer", "workers")
"""Components of Airflow's chart that run the platform's image."""
BY_THE_STACK = {
    "airflow_port", "feast_port", "metrics_port", "mlflow_port", "reports_port", "serving_port",  # each has its address
    "online_store", "log_format",  # follow from the profile
    "object_bucket", "registry_url",  # made by the start of the stack
    "serving_key",  # a secret
    "streaming",  # a profile, or a number of replicas
}  # fmt: skip
"""Settings that no process of the production stack is given: the stack itself decides them."""


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCK_SPARK_PARTITIONS", "")
    monkeypatch.setenv("CLOCK_SCORE_WEIGHTS", "")
    monkeypatch.setenv("CLOCK_DUCKDB_MEMORY", "7GB")
    settings = Settings()
    assert (settings.spark_partitions, settings.duckdb_memory) == (8, "7GB")
    assert settings.score_weights == Settings.model_fields["score_weights"].default


def test_kubernetes_manifests_use_the_same_services_and_settings() -> None:
    documents = list(yaml.safe_load_all((DOCKER / "kubernetes" / "platform.yaml").read_text()))
    settings = next(d["data"] for d in documents if d["kind"] == "ConfigMap")
    values = yaml.safe_load((DOCKER / "kubernetes" / "values.yaml").read_text())
    assert yaml.safe_load(values["extraEnvFrom"]) == [{"configMapRef": {"name": "clock-settings"}}]
    assert "env" not in values
    assert values["executor"] == "CeleryExecutor", "the one that operations/services.py sets"
    in_compose = compose()["services"]["serving"]["environment"]
    assert settings.keys() == {name for name in in_compose if name.startswith("CLOCK_")}
    told = {name.removeprefix("CLOCK_").lower() for name in settings}
    assert told | BY_THE_STACK == set(Settings.model_fields)
    assert not told & BY_THE_STACK
    commands = [
        c["args"]
        for d in documents
        if d["kind"] in {"Deployment", "Job"}
        for c in d["spec"]["template"]["spec"]["containers"]
    ]
    commands += [values[part]["args"] for part in CHART_PARTS]
    expected = [["init"], *(["service", name] for name in (*ORDER, "streaming"))]
    assert sorted(commands) == sorted(expected)


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "kubernetes" / "platform.yaml").read_text()))


def workloads() -> dict[str, dict[str, Any]]:
    """Pods of the manifests and of Airflow's chart, each under its name in the Compose file."""
    pods = {
        d["spec"]["template"]["metadata"]["labels"]["app"]: d["spec"]["template"]["spec"]
        for d in manifests()
        if d["kind"] in {"Deployment", "Job"}
    }
    values = yaml.safe_load((DOCKER / "kubernetes" / "values.yaml").read_text())
    for part in CHART_PARTS:
        container = {
            "volumeMounts": values["volumeMounts"], "securityContext": values["securityContexts"]["container"],
            "envFrom": yaml.safe_load(values["extraEnvFrom"]), "resources": values[part]["resources"],
        }  # fmt: skip
        pods[values[part]["args"][1]] = {
            "containers": [container],
            "volumes": values["volumes"],
            "securityContext": values["securityContexts"]["pod"],
        }
    return pods


def test_every_pod_is_given_all_that_its_container_needs() -> None:
    """Settings, its own secrets and no others, the state where the settings say, and a place for temporary files."""
    services = compose()["services"]
    settings = next(d["data"] for d in manifests() if d["kind"] == "ConfigMap")
    assert set(workloads()) == {"init", *ORDER, "streaming"}
    for name, pod in workloads().items():
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "clock-settings"}}], name
        volumes = {v["name"]: v for v in pod["volumes"]}
        assert len(volumes) == len(pod["volumes"]), name
        mounts = {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"]}
        assert mounts[settings["CLOCK_VAR"]]["persistentVolumeClaim"]["claimName"] == "clock-state", name
        assert mounts["/tmp"]["emptyDir"] == {}, name
        secret = mounts[settings["CLOCK_SECRETS_DIR"]]["secret"]
        assert [item["key"] for item in secret["items"]] == [item["path"] for item in secret["items"]], name
        assert {item["key"] for item in secret["items"]} == set(services[name]["secrets"]), name
        assert secret["defaultMode"] == 0o400, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == locked, name
        assert container["resources"].keys() == {"requests", "limits"}, name


def test_deployments_have_probes_and_serving_outlives_a_node_and_grows_with_its_load() -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for document in manifests():
        by_kind.setdefault(document["kind"], []).append(document)
    for deployment in by_kind["Deployment"]:
        pod = deployment["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        if deployment["metadata"]["name"] == "streaming":  # it has no page
            asked = ["python", "-m", "operations", "healthy", "streaming"]
            assert [container[probe]["exec"]["command"] for probe in PROBES] == [asked] * 3
            continue
        (port,) = (p["containerPort"] for p in container["ports"])
        for probe in PROBES:
            assert container[probe]["httpGet"]["port"] == port, probe
        service = next(s for s in by_kind["Service"] if s["metadata"]["name"] == deployment["metadata"]["name"])
        assert service["spec"]["selector"] == pod["metadata"]["labels"]
        assert service["spec"]["ports"] == [{"port": port}]
    (scaler,), (budget,) = by_kind["HorizontalPodAutoscaler"], by_kind["PodDisruptionBudget"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == budget["spec"]["selector"]["matchLabels"]["app"] == "serving"
    assert scaler["spec"]["minReplicas"] > budget["spec"]["minAvailable"] >= 1
    scaled = next(d for d in by_kind["Deployment"] if d["metadata"]["name"] == "serving")
    assert "replicas" not in scaled["spec"], "applying the file again must not undo the scaler"
    everything = [p for p in by_kind["NetworkPolicy"] if p["spec"]["podSelector"] == {}]
    assert [p["spec"]["ingress"] for p in everything] == [[{"from": [{"podSelector": {}}]}]]


def test_airflows_chart_has_each_volume_once_and_starts_nothing_that_our_image_lacks() -> None:
    """The chart adds a component's ``extraVolumes`` to ``volumes``: the same twice is refused by the cluster."""
    values = yaml.safe_load((DOCKER / "kubernetes" / "values.yaml").read_text())
    for part in CHART_PARTS:
        assert not {"extraVolumes", "extraVolumeMounts"} & values[part].keys(), part
        assert values[part]["waitForMigrations"] == {"enabled": False}, part
        if part != "apiServer":
            assert values[part]["logGroomerSidecar"] == {"enabled": False}, part
        if part in {"scheduler", "dagProcessor", "triggerer"}:
            assert values[part]["livenessProbe"]["command"][-2:] == ["healthy", values[part]["args"][1]]
