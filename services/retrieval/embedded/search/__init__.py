"""Search of the state in memory, by kind of query."""
