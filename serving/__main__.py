"""``python -m serving``: the older form of ``clock serve``."""

from clock.commands.serve import app
from core.cli import run

if __name__ == "__main__":
    run(app)
