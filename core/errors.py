"""The platform's own errors: each says what is wrong, where, and what to do about it."""


class PlatformError(Exception):
    """Base of every error a user can act on. The command line prints it without a traceback."""


class ConfigError(PlatformError):
    """A setting, mapping, policy or experiment file is wrong. Retrying does not help."""


class DataError(PlatformError):
    """Input data cannot be read or breaks a contract. Retrying does not help."""


class NotReadyError(PlatformError):
    """Something that this step needs is not available yet (an earlier hour, a store). Retry later."""


class CorruptStateError(PlatformError):
    """One of the platform's own files is damaged, or does not match its digest."""


QUERY_INTERRUPTED = "Query interrupted"


def is_interruption(error: Exception) -> bool:
    """Whether an error is Ctrl-C: while DuckDB computes it makes an error of Python's of it, with this text."""
    return str(error) == QUERY_INTERRUPTED
