"""The retrieval service: durable documents and vectors, and candidates for a query. Rule: knows nothing of models."""
