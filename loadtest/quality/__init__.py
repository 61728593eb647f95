"""Search quality on judged collections, and the health of embeddings without judgments."""
