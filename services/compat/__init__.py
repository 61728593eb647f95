"""gRPC APIs of other systems, served on the same port as Sluice's own, with the same numbers.

This package has what both model servers need for such an API. What it does with texts or pairs is in `embedding` and
`reranking`, in additional servicers over the same catalog. There is no second queue and no second copy of a model.
"""
