"""Online ranking: the champion behind HTTP, with Feast's online features, and a log of what was shown and why."""
