"""Translation between protos and the domain.

Rule: every limit of the API is checked here.
"""
