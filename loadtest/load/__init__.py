"""The load generator: scenarios, arrivals, worker processes, and what their calls showed."""
