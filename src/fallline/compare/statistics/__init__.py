"""What few results can and cannot say: plain functions of numbers, each held to published ones."""
