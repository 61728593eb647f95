"""gRPC servers: start and drain, the interceptor around each call, health, and limits of requests."""
