"""Running exported models: bundles, tokenisers, sessions, batches. Rule: no torch, no transformers, no gRPC calls."""
