"""What a reader is told: links lead somewhere, commands and settings exist, tables and reference pages come from the code."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from clock.main import app
from core.errors import NotReadyError
from core.settings import ROOT, Settings, load_settings
from docs import generate, results, screenshots

DOCS = ROOT / "docs"
WRITTEN = sorted(p for p in DOCS.rglob("*.md") if generate.GENERATED not in p.parents)
ROOT_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
STACK_PAGES = [ROOT / "docker" / name for name in generate.STACK_PAGES.values()]
ALL_PAGES = [*ROOT_PAGES, *STACK_PAGES, *WRITTEN]
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
CODE_BLOCK = re.compile(r"^(```|~~~)\w*\n(.*?)^\1", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
SETTING = re.compile(r"\bCLOCK_[A-Z][A-Z_]*[A-Z]\b")
NOT_OF_THE_PLATFORM = {"CLOCK_STATE", "CLOCK_IMAGE", "CLOCK_SPARK_IMAGE", "CLOCK_UID", "CLOCK_GID", "CLOCK_PORT"}
"""Variables of ``docker/compose.yaml``."""
PICTURES = {"docs/assets/experiment.png", "docs/assets/model.png"}
"""Taken from a running demo by ``make screenshots``."""


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return INLINE.sub("", CODE_BLOCK.sub("", text))


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", ALL_PAGES, ids=ids)
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    broken = []
    for match in LINK.finditer(without_code(path.read_text(encoding="utf-8"))):
        target = (match[1] or match[2]).partition("#")[0]
        if not target or re.match(r"[a-z]+:", target):
            continue
        file = (path.parent / target).resolve()
        generated = file.parent == generate.GENERATED and file.stem in generate.PAGES
        if not (file.exists() or generated or ids(file) in PICTURES):
            broken.append(target)
    assert broken == []


def shown_commands(text: str) -> Iterator[list[str]]:
    """Words of every ``clock …`` command that a page shows, in blocks and in the text."""
    lines = [line for block in CODE_BLOCK.finditer(text) for line in block[2].splitlines()]
    lines += [match[1] for match in INDENTED.finditer(text)] + [match[1] for match in INLINE.finditer(text)]
    for line in lines:
        bare = re.sub(r"^(\w+=\S+\s+)*(\.venv/bin/)?", "", line.strip().removeprefix("$ "))
        if re.match(r"clock \S", bare) and "…" not in bare:
            yield shlex.split(bare.rstrip("\\"), comments=True)


def unknown_part(words: list[str]) -> str | None:
    """What of a command the application does not know; None where it knows all of it."""
    command: Any = typer.main.get_command(app)
    for position, word in enumerate(words[1:], start=1):
        children = getattr(command, "commands", None)
        if not children or word.startswith("-"):
            options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "--version"}
            used = {w.partition("=")[0] for w in words[position:] if w.startswith("--")}
            return ", ".join(sorted(used - options)) or None
        if word not in children:
            return f"{word} in {' '.join(words)}"
        command = children[word]
    return None


@pytest.mark.slow
@pytest.mark.parametrize("path", ALL_PAGES, ids=ids)
def test_every_command_shown_exists_with_its_options(path: Path) -> None:
    commands = list(shown_commands(path.read_text(encoding="utf-8")))
    assert [unknown for words in commands if (unknown := unknown_part(words))] == []


def test_commands_that_do_not_exist_are_found() -> None:
    text = "Run `clock no-such-command`, or\n\n    clock events no-such-command\n    clock stale --no-such-option\n"
    assert len([words for words in shown_commands(text) if unknown_part(words)]) == 3


def setting_names() -> set[str]:
    names = set()
    for name, field in Settings.model_fields.items():
        names.add(f"CLOCK_{name.upper()}")
        names |= {str(c).upper() for c in getattr(field.validation_alias, "choices", ())}
    return names | {f"CLOCK_{n}" for n in names if not n.startswith("CLOCK_")}


@pytest.mark.parametrize("path", ALL_PAGES, ids=ids)
def test_every_setting_named_exists(path: Path) -> None:
    named = set(SETTING.findall(path.read_text(encoding="utf-8")))
    assert named - setting_names() - NOT_OF_THE_PLATFORM == set()


@pytest.mark.parametrize("path", sorted(DOCS.glob("decisions/0*.md")), ids=ids)
def test_a_decision_has_context_decision_rejections_and_consequences(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.name[:4]}: ")
    assert re.search(r"^Date: \d{4}-\d{2}-\d{2}.* Status: ", text, re.MULTILINE)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Rejected", "Consequences"]
    assert path.name in (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")


def test_every_page_stands_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    def files(entries: list[Any]) -> Iterator[str]:
        for entry in entries:
            value = next(iter(entry.values())) if isinstance(entry, dict) else entry
            yield from files(value) if isinstance(value, list) else [value]

    shown = set(files(yaml.safe_load(config)["nav"]))
    written = {path.relative_to(DOCS).as_posix() for path in WRITTEN}
    assert shown == written | {f"reference/generated/{name}.md" for name in generate.PAGES}


def test_the_site_loads_nothing_from_a_network() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & set(config)


def test_tables_of_results_have_a_writer_and_stay_without_files(tmp_path: Path) -> None:
    marked = {m["name"] for page in results.pages() for m in results.MARKED.finditer(page.read_text(encoding="utf-8"))}
    assert marked == set(results.TABLES)
    assert [build(tmp_path) for build in results.TABLES.values()] == [None] * len(results.TABLES)


def test_a_table_is_rewritten_between_its_markers_unless_it_would_lose_columns() -> None:
    before = "a\n<!-- table: demo -->\n| x | y |\n<!-- end table -->\nb"
    assert results.rewrite(before, {"demo": "| 1 | 2 |"}) == before.replace("| x | y |", "| 1 | 2 |")
    assert results.rewrite(before, {"demo": "| 1 |"}) == before
    assert results.rewrite(before, {}) == before


def test_the_demo_table_is_what_the_demo_wrote(tmp_path: Path) -> None:
    figures = {
        "auc": {"value": 0.68641, "ci95": [0.6834, 0.6895]},
        "uauc": {"value": 0.6551},
        "gauc": {"value": 0.6641},
        "logloss": {"value": 0.6143},
    }
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "summary.json").write_text(json.dumps({"metrics": {"matched_clock": figures}, "ab": {}}))
    assert results.TABLES["demo"](tmp_path) == (
        "| time module | AUC | 95 % interval | UAUC | GAUC | log-loss |\n| --- | --- | --- | --- | --- | --- |\n"
        "| **matched_clock** | 0.6864 | 0.6834 – 0.6895 | 0.6551 | 0.6641 | 0.6143 |"
    )
    assert results.TABLES["demo-experiment"](tmp_path) is None


def figure(value: float) -> dict[str, object]:
    return {"value": value, "interval": [value - 0.001, value + 0.001], "seeds": 0.0}


def write_results(var: Path, study: str, content: dict[str, Any]) -> None:
    folder = var / "studies" / study
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(
        json.dumps({"conclusion": "…", "command": f"make study NAME={study}", "version": "1.2.3", **content})
    )


def test_a_table_of_settings_has_a_column_per_ranker_and_a_row_per_kind_of_negatives(tmp_path: Path) -> None:
    logs = {
        f"foursquare, {negatives} negatives, {ranker}": {
            "gaps": {"7 days": {"auc": figure(value), "uauc": figure(0.02)}}
        }
        for negatives, ranker, value in (
            ("own", "gaussian clock", 0.01),
            ("own", "matched clock", 0.02),
            ("popularity", "gaussian clock", 0.03),
        )
    }
    write_results(tmp_path, "sensitivity/foursquare", {"logs": logs})
    assert results.TABLES["sensitivity-foursquare"](tmp_path) == (
        "| negatives | setting | gaussian clock | matched clock |\n| --- | --- | --- | --- |\n"
        "| own | 7 days | +0.0100 (+0.0090 to +0.0110) | +0.0200 (+0.0190 to +0.0210) |\n"
        "| popularity | 7 days | +0.0300 (+0.0290 to +0.0310) |  |\n\n"
        "From `make study NAME=sensitivity/foursquare`, version 1.2.3."
    )
    assert results.TABLES["sensitivity-simulator"](tmp_path) is None


def test_a_table_of_one_ranker_on_a_log_with_its_own_negatives_names_neither(tmp_path: Path) -> None:
    write_results(tmp_path, "sigma/simulator", {"logs": {"simulator": {"gaps": {"σ = 2 h": {"auc": figure(0.01)}}}}})
    assert (results.TABLES["sigma-simulator"](tmp_path) or "").startswith(
        "| setting | difference in AUC |\n| --- | --- |\n| σ = 2 h | +0.0100 (+0.0090 to +0.0110) |\n"
    )


def test_tables_of_rankers_and_slices_have_a_row_for_each(tmp_path: Path) -> None:
    gains = {"the paper's clock": {"MLP": {"auc": figure(-0.01)}}, "ours": {"MLP": {"auc": figure(0.02)}}}
    write_results(tmp_path, "baselines/simulator", {"logs": {"simulator": {"gains": gains}}})
    baselines = results.TABLES["baselines-simulator"](tmp_path) or ""
    assert "| ranker | the paper's clock | ours |" in baselines
    assert "| MLP | -0.0100 (-0.0110 to -0.0090) | +0.0200 (+0.0190 to +0.0210) |" in baselines
    slices = {
        "gains": {"ours less none": {"new users": figure(0.5)}},
        "values": {"gaussian_clock": {"new users": figure(0.7)}},
    }
    write_results(tmp_path, "cold_start/simulator", {"logs": {"simulator": slices}})
    cold_start = results.TABLES["cold_start-simulator"](tmp_path) or ""
    assert "| slice | ours less none | AUC, gaussian clock |" in cold_start
    assert "| new users | +0.5000 (+0.4990 to +0.5010) | 0.7000 |" in cold_start
    metrics = dict.fromkeys(("auc", "uauc", "session_auc", "logloss"), figure(0.6))
    modules = ("none", "naive_clock", "hour_embedding", "gaussian_clock", "matched_clock")
    values = {"values": dict.fromkeys(modules, metrics), "gaussian_clock less": dict.fromkeys(modules, metrics),
              "matched_clock less": dict.fromkeys(modules, metrics), "hour_embedding less": {"none": metrics}}  # fmt: skip
    write_results(tmp_path, "variants/simulator", {"logs": {"simulator": values}})
    assert "| **matched_clock** | 0.6000 | 0.6000 | 0.6000 | 0.6000 |" in (
        results.TABLES["variants-simulator"](tmp_path) or ""
    )
    differences = results.TABLES["variants-differences-simulator"](tmp_path) or ""
    assert "| matched_clock less hour_embedding | +0.6000 (+0.5990 to +0.6010) | +0.6000" in differences
    swing = {"swing": {"hour_embedding": figure(0.1)}, "streaming less daily": {"hour_embedding": figure(-0.1)}}
    write_results(tmp_path, "streaming_vs_daily/simulator", {"logs": {"simulator": swing}})
    assert "| hour embedding | +0.1000 (+0.0990 to +0.1010) | -0.1000 (-0.1010 to -0.0990) |" in (
        results.TABLES["streaming_vs_daily-simulator"](tmp_path) or ""
    )


def test_tables_of_the_loop_studies_show_coverage_and_order(tmp_path: Path) -> None:
    counts = {"cuped": {"covered": 95, "of": 100}, "welch": {"covered": 97, "of": 100}}
    write_results(tmp_path, "closed_loop", {"runs": 100, "active_days": counts})
    assert "| active days | 95 of 100 | 97 of 100 |" in (results.TABLES["closed_loop"](tmp_path) or "")
    write_results(
        tmp_path, "offline_online", {"tau": {"auc with active_days": [0.2, 0.4], "uauc with active_days": [1.0]}}
    )
    assert "| AUC | +0.30 |\n| UAUC | +1.00 |" in (results.TABLES["offline_online"](tmp_path) or "")


def test_the_tables_of_uauc_show_the_bias_and_what_the_gate_promotes(tmp_path: Path) -> None:
    metrics = {"auc": figure(0.6), "uauc": figure(0.3), "session_auc": figure(0.5)}
    case = {
        "truth": {"auc": 0.1, "uauc": -0.04, "session_auc": 0.0},
        "deserved": True,
        "promoted": {"UAUC": 0, "session AUC": 20, "both": 0},
    }
    bias = {"14": {"a rate": metrics}, "7": {"a rate": metrics}}
    write_results(tmp_path, "uauc", {"bias": bias, "gate": {"follows": case}, "replications": 20})
    assert "| a rate | 0.600 (0.599 to 0.601) | 0.300 (0.299 to 0.301) | 0.500" in (
        results.TABLES["uauc"](tmp_path) or ""
    )
    assert "| score | 7 days | 14 days |" in (results.TABLES["uauc-days"](tmp_path) or "")
    gate = results.TABLES["uauc-gate"](tmp_path) or ""
    assert "| follows | +0.100 | -0.040 | +0.000 | yes | 0.0 % (0.0 to 16.1 %) | 100.0 % (83.9 to 100.0 %) |" in gate


def test_a_demo_table_has_session_auc_where_the_demo_measured_it(tmp_path: Path) -> None:
    figures = {name: {"value": 0.5} for name in ("uauc", "gauc", "session_auc", "logloss")}
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "summary.json").write_text(
        json.dumps({"metrics": {"none": {**figures, "auc": {"value": 0.5, "ci95": [0.4, 0.6]}}}, "ab": {}})
    )
    assert "| UAUC | GAUC | session AUC | log-loss |" in (results.TABLES["demo"](tmp_path) or "")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every generated page."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "gone.md").write_text("a page of an older version")
    generate.write_pages(folder)
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}


@pytest.mark.slow
def test_the_reference_has_every_setting_dag_command_and_endpoint(reference: dict[str, str]) -> None:
    assert set(reference) == set(generate.PAGES)
    assert all(f"`CLOCK_{name.upper()}`" in reference["settings"] for name in Settings.model_fields)
    for dag in (
        "ingest_hour",
        "materialize_clock",
        "train_ranker",
        "promote_ranker",
        "report_day",
        "rollback_champion",
    ):
        assert f"## {dag}" in reference["dags"]
    assert "when a partition of `events` is updated" in reference["dags"]
    for endpoint in ("POST /rank", "GET /health", "GET /ready", "GET /model", "GET /metrics"):
        assert f"`{endpoint}`" in reference["rest-api"]
    for command in ("clock events ingest", "clock demo", "clock ab plan"):
        assert f"# {command}" in reference["command-line"]
    for name, words in {
        "mapping": "zone_column",
        "experiment": "minimum_effect",
        "policy": "max_drift_share",
        "ranker": "embedding_rate",
        "metrics": "## uauc",
    }.items():
        assert words in reference[name]


def test_the_reference_holds_no_path_of_this_machine(reference: dict[str, str]) -> None:
    assert [name for name, text in reference.items() if str(ROOT) in text or str(Path.home()) + "/" in text] == []


def test_screenshots_say_what_to_run_where_no_demo_has_run(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path)
    with pytest.raises(NotReadyError, match=r"no demo has run in .*; run 'make demo' first"):
        screenshots.check_workspace(settings)
    settings.workspace.mkdir(parents=True)
    (settings.workspace / "demo.json").write_text("{}")
    with pytest.raises(NotReadyError, match="has not reached its reports"):
        screenshots.check_workspace(settings)


def test_pictures_are_of_the_newest_pages(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path)
    for name in (
        "ab/clock_ranker/2026-03-16T00",
        "ab/clock_ranker/2026-03-17T00",
        "ab/other/2026-03-18T00",
        "clocks/7",
        "gate/a",
        "drift/2026-03-17",
    ):
        page = settings.reports_dir / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("")
    (settings.reports_dir / "gate" / "a.json").write_text('{"hourly": [{}]}')
    urls = {picture.name: picture.url for picture in screenshots.pictures(settings)}
    assert urls["experiment"].endswith("/ab/clock_ranker/2026-03-17T00.html")
    assert urls["clock"].endswith("/clocks/7.html")
    assert {"model", "gate", "airflow", "mlflow"} < set(urls)
