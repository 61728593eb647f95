"""The API of text-embeddings-inference: what both servers of models answer to it."""
