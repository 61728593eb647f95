"""Export of a checkpoint to a bundle. Only this package uses torch, transformers and Optimum; servers do not."""

import os

# The libraries read these when they are loaded. Importing any module of this package runs this first.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
