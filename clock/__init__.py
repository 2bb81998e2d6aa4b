"""The command line ``clock``."""
