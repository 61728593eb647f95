"""HTTP as the gateway speaks it: connections, limits, request bodies, responses and errors."""
