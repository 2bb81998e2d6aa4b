"""What every folder shares: hours, errors, settings, atomic files, experiment assignment."""
