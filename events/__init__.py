"""What happened: the event schema, readers of real logs, hour partitions, the simulated app."""
