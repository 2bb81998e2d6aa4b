"""``python -m events``: the older form of ``clock events``."""

from clock.commands.events import app
from core.cli import run

if __name__ == "__main__":
    run(app)
