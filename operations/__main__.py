"""``python -m operations``: the older form of ``clock ops``."""

from clock.commands.ops import app
from core.cli import run

if __name__ == "__main__":
    run(app)
