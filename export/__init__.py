"""From checkpoint to bundle: the only part that knows torch, transformers and Optimum. No server imports it."""
