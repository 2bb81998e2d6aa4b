"""A simulated music app: users with hour-dependent tastes, a raw log, an A/B experiment with a known effect."""
