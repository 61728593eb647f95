"""APIs of other systems, served beside our own on the same port: what is theirs in form, and ours in numbers.

What both servers of models have of such an API is here. What it asks of texts or of pairs is in `embedding` and
`reranking`, as another servicer over the same catalog: there is no second queue, and no second copy of a model.
"""
