"""``python -m pipeline demo`` and so on: the older form of ``clock demo`` and so on."""

from clock.commands.platform import app
from core.cli import run

if __name__ == "__main__":
    run(app)
