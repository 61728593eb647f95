"""From checkpoint to bundle: the only part that knows torch, transformers and Optimum. No server imports it."""

import os

# Read when these libraries are loaded. Importing any module of this package runs this first.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
