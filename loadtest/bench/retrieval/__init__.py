"""Benchmarks of the retrieval service."""
