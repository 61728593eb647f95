"""gRPC plumbing: one way to start, configure, limit, watch and drain a server. Rule: knows nothing of search."""
