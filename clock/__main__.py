"""``python -m clock``: the same as ``clock``."""

from clock.main import main

if __name__ == "__main__":
    main()
