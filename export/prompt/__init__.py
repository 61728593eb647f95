"""Prompts of rerankers that are language models: their text, and where it is cut so that texts are tokenized once."""
