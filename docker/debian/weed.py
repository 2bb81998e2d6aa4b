#!/opt/venv/bin/python
"""A stand-in for ``weed server``: moto's S3 server, whose requests are kept in the data folder and replayed at the start."""

import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

OPTIONS = dict(re.findall(r"-([\w.]+)=(\S+)", " ".join(sys.argv)))
RECORD = Path(OPTIONS["dir"], "requests")
PORT = int(OPTIONS["s3.port"])
HEALTH_PORT = 9333
EVERYWHERE = "0.0.0.0"  # noqa: S104  # of the container, whose network is internal


class Health(BaseHTTPRequestHandler):
    """Answers ``/cluster/healthz`` once the store has all of its objects."""

    def do_GET(self) -> None:
        """Every path is the health's."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


def main() -> None:
    """Serve S3 until the process is ended."""
    os.environ["MOTO_RECORDER_FILEPATH"] = str(RECORD)
    from moto.moto_api import recorder
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server(EVERYWHERE, PORT, DomainDispatcherApplication(create_backend_app), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if RECORD.exists():
        recorder.replay_recording(target_host=f"http://127.0.0.1:{PORT}")
    recorder.start_recording()
    HTTPServer((EVERYWHERE, HEALTH_PORT), Health).serve_forever()


if __name__ == "__main__":
    main()
