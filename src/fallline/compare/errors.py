"""The error of a comparison that cannot start or go on."""

from fallline.core.errors import FalllineError


class ComparisonError(FalllineError, RuntimeError):
    """A comparison cannot start or go on; the message says what to change."""
