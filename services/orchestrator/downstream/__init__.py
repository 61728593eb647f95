"""Clients of the embedding, retrieval and reranking services, and the values exchanged with them."""
