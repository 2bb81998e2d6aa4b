"""A simulated music app: its items and people, what they do, its log, and what is true in it."""
