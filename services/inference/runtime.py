"""ONNX Runtime, with its telemetry off. Servers import it from here and from nowhere else.

Fact: from 1.31 on, ONNX Runtime reports its use to Microsoft on Linux too, unless ORT_DISABLE_TELEMETRY is set before
it is loaded. Without a network, a server that had served traffic then took 31 to 43 s to end, instead of 7 to 9.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

__all__ = ["onnxruntime"]
