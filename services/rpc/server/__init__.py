"""Run a gRPC server: start and drain it, guard every call, report health, limit requests."""
