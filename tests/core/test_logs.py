"""Log lines say what they belong to, as text and as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from core.settings import ROOT

CODE = """
import logging
from core.hours import Hour
from core.logs import log_context, setup_logging
from core.settings import load_settings
setup_logging(load_settings())
log = logging.getLogger("a.part")

@log_context(hour="until", experiment="name")
def work(name, until, other=1):
    log.info("worked on %s", other)
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("failed")

logging.getLogger("sqlglot").info("Applying array index offset (1)")
work("clock", until=Hour.parse("2026-03-02T05"), other="<é>")
log.warning("outside")
"""


def lines(log_format: str) -> list[str]:
    environment = {**os.environ, "CLOCK_LOG_FORMAT": log_format, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert not done.stdout
    return done.stderr.splitlines()


def test_a_json_line_has_the_hour_and_the_experiment_and_a_failure_its_traceback() -> None:
    worked, failed, outside = map(json.loads, lines("json"))  # and none of a library's own
    assert worked.pop("timestamp").endswith("Z")
    assert worked == {
        "event": "worked on <é>", "level": "info", "logger": "a.part", "hour": "2026-03-02T05", "experiment": "clock",
    }  # fmt: skip
    assert failed["hour"] == "2026-03-02T05"
    assert "ZeroDivisionError" in failed["exception"]
    assert "hour" not in outside


def test_text_says_the_same() -> None:
    written = lines("text")
    assert "worked on <é>" in written[0]
    assert "hour=2026-03-02T05" in written[0]
    assert any("ZeroDivisionError" in line for line in written)
    assert "hour=" not in written[-1]
