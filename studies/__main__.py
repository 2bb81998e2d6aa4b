"""``python -m studies``: the older form of ``clock study``."""

from clock.commands.study import app
from core.cli import run

if __name__ == "__main__":
    run(app)
