"""Checkpoints: files that are whole or refused, and the state of other libraries brought over."""
