"""The reranking service: scores of (query, documents). Does not know where candidates come from."""
