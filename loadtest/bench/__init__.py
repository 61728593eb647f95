"""Benchmarks: each answers one question with one command, in ratios within one run. BENCHMARKS.md has the answers."""
