"""The engine for those who outgrow one machine: collections in Milvus, and a service without state before it.

Rule: pymilvus is imported here alone, and here only when this engine is chosen.
"""
