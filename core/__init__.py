"""What every package shares: hours, errors, settings, atomic files, logs, database engines."""
