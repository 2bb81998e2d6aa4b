"""``python -m evaluation``: the older form of ``clock evaluate``."""

from clock.commands.evaluate import app
from core.cli import run

if __name__ == "__main__":
    run(app)
