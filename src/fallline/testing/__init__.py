"""Tools to prove that an optimizer does what its formula says."""

from fallline.testing.oracle import trajectory

__all__ = ["trajectory"]
