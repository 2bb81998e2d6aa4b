"""The documentation site: its pages, and the commands that write parts of them from code and results."""
