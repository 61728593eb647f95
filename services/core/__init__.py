"""The mathematics of search: rankings, fusion, similarity and encodings.

Rule: numpy and the standard library only; no gRPC, asyncio, files, clocks or environment.
Axes: B texts in a batch, N documents, Q query tokens, T document tokens, D dimensions, V vocabulary.
"""
