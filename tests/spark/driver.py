"""One Spark driver for many tests: a process that calls functions with one session, which ends with it."""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from core.settings import ROOT


class Driver:
    """A process that calls functions of ``tests.spark.calls``, one after the other.

    Args:
        conf: Spark's folder of settings.
        log: file of what the process says.
    """

    def __init__(self, conf: Path, log: Path) -> None:
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.spark.driver"], cwd=ROOT, env={**os.environ, "SPARK_CONF_DIR": str(conf)},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip

        self.calls = 0

    def begin(self, call: str, **arguments: Any) -> None:
        """Let the process call a function, and do not wait for it."""
        assert self.process.stdin is not None
        self.calls += 1
        print(json.dumps([self.calls, call, arguments]), file=self.process.stdin, flush=True)

    def at_work(self) -> bool:
        """Whether the function that was begun has not returned yet."""
        assert self.process.stdout is not None
        return not select.select([self.process.stdout], [], [], 0)[0]

    def result(self) -> Any:
        """What the function that was begun last returns; answers that a failed test did not wait for are left."""
        assert self.process.stdout is not None
        content: dict[str, Any] = {"number": 0}
        while content["number"] != self.calls:
            line = self.process.stdout.readline()
            assert line, self.log.read_text()[-3000:]
            content = json.loads(line)
        assert "error" not in content, content["error"]
        return content["result"]

    def call(self, call: str, **arguments: Any) -> Any:
        """What a function returns."""
        self.begin(call, **arguments)
        return self.result()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # closes its input, and waits
            pass


def serve() -> None:
    """Call what the lines of the input name. Whatever a library prints goes to the log."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    calls = importlib.import_module("tests.spark.calls")
    for line in sys.stdin:
        number, name, arguments = json.loads(line)
        try:
            content = {"result": getattr(calls, name)(**arguments)}
        except Exception:
            content = {"error": traceback.format_exc()[-4000:]}
        print(json.dumps({"number": number, **content}), file=answers, flush=True)


if __name__ == "__main__":
    serve()
