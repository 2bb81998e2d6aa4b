"""Statistics that several packages share: assignment by hash, limits for repeated looks."""
