"""Reading of what a checkpoint states about itself: task, pooling, prompts, lengths, license.

Rule: reads only metadata, no weights. A checkpoint that needs code or a pickle of its own is rejected.
"""
