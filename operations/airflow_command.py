"""Airflow's command line, whose processes look for garbage seldom.

Most of what a service makes while it starts are modules that stay, among which Python's collector would look for garbage all
along: a fifth of what the API server takes until it answers.
"""

from __future__ import annotations

import gc
import sys

COLLECT_AFTER = 50_000
"""New objects after which garbage is looked for, instead of 700."""


def main() -> None:
    """Run the command in ``sys.argv``."""
    gc.set_threshold(COLLECT_AFTER)
    from airflow.__main__ import main as airflow

    sys.exit(airflow())


if __name__ == "__main__":
    main()
