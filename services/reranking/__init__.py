"""The reranking service: scores of (query, document) pairs. It does not know where the documents come from."""
