"""People meet the rankers: the closed loop, its traffic, its worlds and its page."""
