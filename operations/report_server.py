"""The report pages inside Airflow's API server: only people who are logged in may read them."""

from __future__ import annotations

from pathlib import Path

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

HEADERS = {
    # A page runs its scripts in a separate origin: whatever a log or a file's name smuggled into a report cannot
    # use the reader's login.
    "Content-Security-Policy": "sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox allow-downloads",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}


def make_app(folder: Path) -> FastAPI:
    """An application that answers with the files below ``folder``."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/{path:path}")
    def page(path: str, user: GetUserDep) -> FileResponse:
        del user
        return FileResponse(find_page(folder, path), headers=HEADERS)

    return app


def find_page(folder: Path, path: str) -> Path:
    """A file below ``folder``; 404 for anything else, hidden files and ways out of the folder among it."""
    root = folder.resolve()
    try:
        file = (root / path).resolve()
        if file.is_dir():
            file = file / "index.html"
        inside = file.is_relative_to(root) and file.is_file()
    except (OSError, ValueError):  # a name that is too long or has a null byte
        inside = False
    if not inside or any(part.startswith((".", "_")) for part in file.relative_to(root).parts):
        raise HTTPException(404, "no such report")
    return file
