"""``python -m feature_repo``: the older form of ``clock features``."""

from clock.commands.features import app
from core.cli import run

if __name__ == "__main__":
    run(app)
