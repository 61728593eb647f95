"""The Milvus engine: collections in a Milvus server, for data that does not fit on one machine.

Rule: only this folder imports pymilvus, and the server imports this folder only if the engine is chosen.
"""
