"""In-process limits to measure services against: the only part that opens bundles itself."""
