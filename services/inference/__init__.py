"""Inference with exported models: bundles, tokenizers, sessions and batches.

Rule: no torch, no transformers, no gRPC calls.
"""
