"""Benchmarks: ratios measured in one run, interleaved. `python -m benches` runs all of them."""
