"""ONNX graphs of a checkpoint: exported by Optimum, fused by ONNX Runtime, with pooling and normalization included.

The body of a bi-encoder gives token states; the head turns them into the outputs of the bundle.
"""
