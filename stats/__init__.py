"""Statistics that several packages share: assignment by hash, the 24 h circle, limits for repeated looks."""
