"""``python -m ab_analysis``: the older form of ``clock ab``."""

from clock.commands.ab import app
from core.cli import run

if __name__ == "__main__":
    run(app)
