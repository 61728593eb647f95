"""The embedding service: text to vectors. Knows nothing of documents and collections."""
