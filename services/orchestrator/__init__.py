"""Runs pipelines: which stages, in which order, within which deadline, and what to do when one fails.

Documents, filters and tensors pass through as they came: nothing here opens a vector.
"""
