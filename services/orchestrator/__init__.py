"""The orchestrator: runs pipelines within the caller's deadline, and indexes streams of documents.

    servicer ──▶ search/   ──▶ pipelines/ ──▶ downstream/ ──▶ the other services
             └─▶ indexing/ ───────────────────▲

Rule: documents, filters and vectors pass through unchanged; the orchestrator does not decode vectors.
"""
