"""Benchmarks: each is one question, one command, a table and a JSON file."""
