"""Hybrid search: fusion of several rankings into one, and grouping of documents. Independent of the engine."""
