"""Pure maths of search. Rule: numpy and the standard library only; no gRPC, asyncio, files, clocks or environment.

Axes, the same letters everywhere: B texts in a batch, N documents, Q query tokens, T document tokens, D dimensions,
V vocabulary.
"""
