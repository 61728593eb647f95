"""`python -m loadtest compare`: the speed of two commits, measured side by side."""
