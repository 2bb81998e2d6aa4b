"""Airflow's command line, whose processes look for garbage seldom.

Most of what a service makes while it starts are modules that stay, among which Python's collector would look for garbage all
along: a fifth of what the API server takes until it answers.
"""

from __future__ import annotations

import sys

from core.garbage import collect_seldom


def main() -> None:
    """Run the command in ``sys.argv``."""
    collect_seldom()
    from airflow.__main__ import main as airflow

    sys.exit(airflow())


if __name__ == "__main__":
    main()
