"""Names that a person can type, pages that show them, files that are loaded: none is a way in."""

from __future__ import annotations

import contextlib
import pickle
import re
import urllib.parse
from pathlib import Path

import pytest
from fastapi import HTTPException

from core.errors import ConfigError, CorruptStateError, PlatformError
from core.hours import Hour, parse_day
from core.page_template import write_page
from core.secret_files import SECRETS, make_secrets, read_secret
from core.settings import ROOT, Settings, load_settings

PATHS = ("../../etc/passwd", "/etc/passwd", "..", "a/../../b", "a\x00b", "%2e%2e/x", "a" * 5000, ".hidden", "~root")
MARKUP = '"><script>alert(1)</script>'


@pytest.mark.parametrize("name", [p for p in PATHS if p])
def test_no_name_leaves_its_folder(name: str, settings: Settings) -> None:
    from ab_analysis.experiment import load_named
    from serving.routing import resume_experiment

    with pytest.raises(ConfigError, match="CLOCK_SOURCE"):
        load_settings(source=name)
    with pytest.raises(ConfigError, match="no experiment"):
        load_named(settings.experiments_dir, name)
    with pytest.raises(ConfigError, match="is not an hour"):
        Hour.parse(name)
    with pytest.raises(ConfigError, match="is not a day"):
        parse_day(name)
    before = sorted(settings.var.rglob("*")) if settings.var.exists() else []
    with contextlib.suppress(PlatformError, OSError, ValueError):
        assert resume_experiment(settings, name) is False
    assert (sorted(settings.var.rglob("*")) if settings.var.exists() else []) == before


@pytest.mark.parametrize("name", [*PATHS, "secret.txt", "sub/.lock", "_private/x.html", "", "sub"])
def test_report_pages_are_only_those_below_the_folder(name: str, tmp_path: Path) -> None:
    from operations.report_server import find_page

    reports = tmp_path / "reports"
    for file in ("sub/page.html", ".hidden", "_private/x.html", "sub/.lock"):
        (reports / file).parent.mkdir(parents=True, exist_ok=True)
        (reports / file).write_text("x")
    (tmp_path / "secret.txt").write_text("x")
    (reports / "link.html").symlink_to(tmp_path / "secret.txt")
    assert find_page(reports, "sub/page.html") == (reports / "sub" / "page.html").resolve()
    for asked in (name, urllib.parse.unquote(name), f"sub/{name}", "link.html"):
        with pytest.raises(HTTPException) as refused:
            find_page(reports, asked)
        assert refused.value.status_code == 404


def test_markup_in_values_is_text_on_every_kind_of_page(tmp_path: Path) -> None:
    from evaluation.gate_decision import GateDecision, ModelVersion
    from pages.rankers import write_gate_page

    write_page(tmp_path / "page.html", MARKUP, '<p title="{{ value }}">{{ value }}</p>', value=MARKUP)
    decision = GateDecision("wait", MARKUP, ModelVersion("1", MARKUP, "2026-03-02T00"), None, ())
    write_gate_page(tmp_path / "gate.html", Hour.parse("2026-03-02T00"), decision)
    for page in tmp_path.glob("*.html"):
        assert "<script>alert" not in page.read_text(), page.name
        assert "&lt;script&gt;alert" in page.read_text(), page.name


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.path)!r}, 'w').write('caught')",))


def test_a_pickle_in_the_place_of_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    from training.model import load_model

    sprung = tmp_path / "sprung"
    model = tmp_path / "model"
    model.mkdir()
    payload = pickle.dumps(Trap(sprung))
    for name in ("weights.safetensors", "state.json", "python_model.pkl", "model.pkl"):
        (model / name).write_bytes(payload)
    with pytest.raises(CorruptStateError, match="is damaged"):
        load_model(model)
    assert not sprung.exists()


def test_no_code_of_ours_unpickles() -> None:
    sources = [p for p in ROOT.glob("*/**/*.py") if p.relative_to(ROOT).parts[0] not in {".venv", "tests", "var"}]
    assert len(sources) > 100
    words = ("pickle.load", "torch.load", "joblib.load", "yaml.load(", "yaml.unsafe_load", "cloudpickle", "shell=True")
    assert [(str(p), w) for p in sources for w in words if w in p.read_text()] == []


def test_secrets_are_made_once_for_their_owner_only_and_are_never_guessed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert make_secrets(folder) == list(SECRETS)
    values = {name: read_secret(folder, name) for name in SECRETS}
    assert len(set(values.values())) == len(SECRETS)
    assert all(len(v) >= 20 for v in values.values())
    assert make_secrets(folder) == []
    (folder / "redis").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        read_secret(folder, "redis")
    (folder / "redis").unlink()
    with pytest.raises(ConfigError, match="make secrets"):
        read_secret(folder, "redis")


def test_production_does_not_start_half_configured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"CLOCK_PROFILE=production needs CLOCK_SECRETS_DIR, CLOCK_PUBLIC_URL"):
        load_settings(profile="production")
    configured = {
        "profile": "production", "public_url": "https://x", "airflow_url": "http://a", "postgres": "p:1",
        "object_store": "http://o", "secrets_dir": tmp_path,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="has to be a tracking server"):
        load_settings(**configured, mlflow_uri="sqlite:///x.db")
    settings = load_settings(**configured, mlflow_uri="http://m")
    assert settings.online_store == "redis"
    with pytest.raises(ConfigError, match=r"the secret .* cannot be read"):
        settings.secret("redis")
    with pytest.raises(ConfigError, match="the secret"):
        settings.ranking_key  # noqa: B018 (no key, no service)


def test_neither_settings_nor_services_show_a_secret_when_they_are_printed(settings: Settings) -> None:
    from operations.services import airflow_services

    services = airflow_services(settings)
    key = settings.secret("airflow_fernet")
    assert any(key in s.environment.values() for s in services)
    assert key not in repr(services) + repr(settings) + str(services)


def test_the_list_of_requirements_names_tests_that_exist() -> None:
    text = (ROOT / "docker" / "SECURITY.md").read_text().split("# OWASP ASVS")[1]
    named = set(re.findall(r"`(test_\w+)`", text))
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(named) > 10
    assert named <= written
