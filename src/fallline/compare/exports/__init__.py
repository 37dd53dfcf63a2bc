"""The trials of a comparison for other programs."""
