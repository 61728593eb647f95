"""ONNX Runtime with its telemetry turned off. Servers import it only from here.

Fact: since 1.31, ONNX Runtime reports its use to Microsoft on Linux too, unless ORT_DISABLE_TELEMETRY is set before it
is loaded. Without a network, a server that had served traffic then took 31 to 43 s to stop instead of 7 to 9 s.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

__all__ = ["onnxruntime"]
