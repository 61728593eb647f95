"""Pipelines: their schema, the file they are read from, and how they bind to a collection."""
