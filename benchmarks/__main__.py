"""``python -m benchmarks``: the older form of ``clock bench``."""

from clock.commands.bench import app
from core.cli import run

if __name__ == "__main__":
    run(app)
