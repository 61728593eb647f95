"""The API of text-embeddings-inference: the parts that both model servers serve."""
