"""The searchable state of a collection in memory, by data structure."""
