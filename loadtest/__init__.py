"""Measures Sluice from outside, as a client like any other: load, search quality, comparison, benchmarks."""
