"""`sluice doctor`: find what is wrong with a running system, and say what to do."""
