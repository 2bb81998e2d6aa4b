"""Take the documentation's pictures: ``python -m docs.screenshots`` (``make screenshots``), after a demo has run.

Starts the platform on the demo's workspace, opens its pages in headless Chromium, and stops what it started. The pictures
go to ``docs/assets``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import NotReadyError, PlatformError
from core.files import read_json
from core.settings import ROOT, Settings, load_settings
from operations.processes import running, with_free_ports
from operations.services import airflow_services, migrate_airflow, page_services
from pages.index import write_index

if TYPE_CHECKING:
    from playwright.sync_api import Page

ASSETS = ROOT / "docs" / "assets"
CHROMIUM_OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run",
    "--disable-sync", "--hide-scrollbars",
]  # fmt: skip
PATIENCE_MS = 60_000


@dataclass(frozen=True)
class Picture:
    """A page and the file that its picture goes to.

    Attributes:
        name: file name in ``docs/assets``, without ``.png``.
        url: address of the page.
        text: a text that is on the page once it is drawn.
        height: pixels of the picture; its width is 1400.
    """

    name: str
    url: str
    text: str
    height: int = 900


def main() -> None:
    """Take every picture and print its path; ends with status 2 and the reason if there is no demo or no Chromium."""
    try:
        take_pictures(load_settings(), ASSETS)
    except PlatformError as error:
        sys.exit(f"error: {error}")


def take_pictures(settings: Settings, folder: Path) -> None:
    """Take the pictures of a demo's workspace.

    Args:
        settings: their ``source`` names the workspace.
        folder: where the pictures go.

    Raises:
        NotReadyError: there is no workspace of a demo, no page to show, or no Chromium.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise NotReadyError("Chromium is not installed; 'make services' installs it (as root, on Debian)")
    check_workspace(settings)
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    settings = load_settings(source=settings.source, **with_free_ports(settings))
    with ExitStack() as stack:
        migrate_airflow(settings)
        write_index(settings)
        stack.enter_context(running(settings, [*page_services(settings), *airflow_services(settings)]))
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=chromium, args=CHROMIUM_OPTIONS
        )
        stack.callback(browser.close)
        page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
        for picture in pictures(settings):
            print(take(page, picture, folder))


def check_workspace(settings: Settings) -> None:
    """Refuse a workspace in which no demo has run.

    Raises:
        NotReadyError: says what to run first.
    """
    command = f"make demo{'' if settings.source == 'simulator' else f' SOURCE={settings.source} DATA=…'}"
    if not (settings.workspace / "demo.json").exists():
        raise NotReadyError(f"no demo has run in {settings.workspace}; run '{command}' first")
    if not (settings.reports_dir / "model.html").exists():
        raise NotReadyError(
            f"the demo in {settings.workspace} has not reached its reports; run '{command}' to finish it"
        )


def pictures(settings: Settings) -> Iterator[Picture]:
    """The pages to show, the newest of each kind.

    Raises:
        NotReadyError: a kind of page is missing.
    """
    reports = settings.reports_dir
    base = f"http://127.0.0.1:{settings.reports_port}"
    experiment = newest(reports, "ab/clock_ranker/20*.html", "ab/*/20*.html")
    yield Picture("home", f"{base}/index.html", "Is everything fresh", 1100)
    yield Picture("experiment", f"{base}/{experiment}", "Effects relative to control", 1000)
    yield Picture("model", f"{base}/model.html", "champion", 1000)
    yield Picture("clock", f"{base}/{newest(reports, 'clocks/[0-9]*.html')}", "the ranker sees", 1300)
    yield Picture("gate", f"{base}/{newest_comparison(reports)}", "Gate at", 1300)
    yield Picture("drift", f"{base}/{newest(reports, 'drift/*.html')}", "Drift on", 1400)
    airflow = f"http://127.0.0.1:{settings.airflow_port}"
    yield Picture("airflow", f"{airflow}/dags/promote_ranker", "promote_ranker")
    mlflow = f"http://127.0.0.1:{settings.mlflow_port}"
    yield Picture("mlflow", f"{mlflow}/#/models/{settings.source}-ranker", f"{settings.source}-ranker")


def newest(reports: Path, *patterns: str) -> str:
    """The last page, by name, of the first pattern that has any; relative to the reports.

    Raises:
        NotReadyError: no pattern has one.
    """
    for pattern in patterns:
        if pages := sorted(reports.glob(pattern)):
            return pages[-1].relative_to(reports).as_posix()
    raise NotReadyError(f"no page {' or '.join(patterns)} in {reports}; run 'make demo' to the end first")


def newest_comparison(reports: Path) -> str:
    """The page of the last gate decision that came to figures; relative to the reports.

    Raises:
        NotReadyError: there is none.
    """
    for path in sorted((reports / "gate").glob("*.json"), reverse=True):
        if read_json(path)["hourly"]:
            return path.with_suffix(".html").relative_to(reports).as_posix()
    raise NotReadyError(f"the gate has compared no models in {reports}; run 'make demo' with more hours first")


def take(page: Page, picture: Picture, folder: Path) -> Path:
    """Open a page, wait until it is drawn, and write its picture.

    Raises:
        NotReadyError: the page does not show its text in time.
    """
    from playwright.sync_api import Error

    page.set_viewport_size({"width": 1400, "height": picture.height})
    try:
        page.goto(picture.url, timeout=PATIENCE_MS)
        page.get_by_text(picture.text).first.wait_for(timeout=PATIENCE_MS)
    except Error as error:
        raise NotReadyError(f"{picture.url} does not show '{picture.text}': {error.message.splitlines()[0]}") from None
    page.wait_for_timeout(1500)  # charts and grids draw after their text
    path = folder / f"{picture.name}.png"
    page.screenshot(path=path)
    return path


if __name__ == "__main__":
    main()
