"""gRPC plumbing: one way to start, configure, limit, observe and drain a server, and one way to call another service.

Rule: this package does not depend on what the services do. Its folders import each other in one direction, `server` →
`auth` → `observability` → the modules beside them. `client` imports only `auth.tls` and `observability`.
"""
