"""The reference model: a checkpoint run by its own framework. Every exported graph is compared with it.

Rule: weights are read from safetensors. Pickles are read only if the caller trusts the checkpoint, and then with
`weights_only`. Code in a checkpoint is never run.
"""
