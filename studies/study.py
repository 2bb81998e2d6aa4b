"""What all studies share: parts whose results are kept, results as JSON, a page with the conclusion."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.charts import Chart, chart_scripts
from core.files import digest_json, read_json, write_json
from core.page_table import Column, Row, Table
from core.page_template import write_page
from core.release import platform_version
from core.settings import Settings

log = logging.getLogger("studies")

PAGE = """
<section class="banner open"><p class="lead"><strong>{{ conclusion }}</strong></p></section>
{% for s in sections %}<section><h2>{{ s.title }}</h2><p>{{ s.text }}</p>{% for chart in s.charts %}{{ chart }}{% endfor %}
{% if s.rows %}<div class="wide" tabindex="0" role="region" aria-label="{{ s.title }}">{{ s.table }}</div>{% endif %}</section>
{% endfor %}
<section><h2>How to repeat it</h2><pre>{{ command }}</pre><p class="soft">Figures: <a href="results.json">results.json</a></p></section>
"""


@dataclass(frozen=True)
class Section:
    """A section of a study's page: a text, charts, a table."""

    title: str
    text: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    charts: Sequence[Chart] = ()

    @property
    def table(self) -> Table:
        """Its rows as the page shows them."""
        return Table([Column(name) for name in self.columns], [Row(cells) for cells in self.rows])


class Study:
    """A study's folder, ``var/studies/<name>``, with one below it for each source that the study is run on."""

    def __init__(self, settings: Settings, name: str, source: str = "") -> None:
        self.name = f"{name} ({source})" if source else name
        self.var = settings.var
        self.folder = settings.var / "studies" / name / source

    def part(self, name: str, parameters: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """The result of a part of the study: computed now, unless it is kept from a run with the same parameters.

        Args:
            name: of the part; its file is ``parts/<name>.json``.
            parameters: everything that the result depends on.
            work: computes the result, which must be JSON.
        """
        path = self.folder / "parts" / f"{name}.json"
        digest = digest_json(dict(parameters))
        if path.exists() and (kept := read_json(path))["digest"] == digest:
            log.info("%s: %s is done already", self.name, name)
            return kept["result"]
        log.info("%s: %s …", self.name, name)
        begun = time.monotonic()
        result = work()
        write_json(path, {"digest": digest, "parameters": dict(parameters), "result": result})
        log.info("%s: %s took %.0f s", self.name, name, time.monotonic() - begun)
        return read_json(path)["result"]

    def write(self, conclusion: str, sections: list[Section], results: Mapping[str, Any], command: str) -> Path:
        """Write ``results.json`` and ``report.html``.

        Args:
            conclusion: the study's answer, in sentences.
            sections: of the page.
            results: figures for ``results.json``.
            command: repeats the study.

        Returns:
            The page.
        """
        write_json(
            self.folder / "results.json",
            {"conclusion": conclusion, "command": command, "version": platform_version(), **results},
        )
        page = self.folder / "report.html"
        drawn = any(section.charts for section in sections)
        write_page(
            page, f"Study {self.name}", PAGE, conclusion=conclusion, sections=sections, command=command,
            scripts=(chart_scripts(self.var),) if drawn else (),
        )  # fmt: skip
        return page
