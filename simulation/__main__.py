"""``python -m simulation``: the older form of ``clock simulate``."""

from clock.commands.simulate import app
from core.cli import run

if __name__ == "__main__":
    run(app)
