"""Calls to other services: channels, deadlines, retries and circuit breakers."""
