"""What is done with the rankings of an engine: fusion into one, and grouping of documents."""
