"""Call another service: channels, retries, circuit breakers, deadlines."""
