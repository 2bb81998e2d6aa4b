"""Pages that people read: rankers and gate, clocks, the index."""
