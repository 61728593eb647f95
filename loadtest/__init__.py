"""Measurements of Sluice as an ordinary client: load, search quality, comparison of commits, benchmarks, attacks."""

import os

# The measured libraries read these when they are loaded, in this process and its children.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
