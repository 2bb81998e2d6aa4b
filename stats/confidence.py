"""The level of confidence intervals."""

from core.errors import ConfigError

HIGHEST_CONFIDENCE = 0.999999
"""Beyond it, an interval has no digits left between its level and certainty."""


def check_confidence(confidence: float, name: str = "confidence") -> None:
    """Check that a level can be the confidence of an interval.

    Args:
        confidence: the level.
        name: what it is called where a person gave it.

    Raises:
        ConfigError: it is not above 0.5 and below 1.
    """
    if not 0.5 < confidence <= HIGHEST_CONFIDENCE:
        raise ConfigError(f"{name} {confidence!r} must lie between 0.5 and 1 (95 % is 0.95)")
