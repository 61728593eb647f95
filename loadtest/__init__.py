"""Measurements of Sluice as an ordinary client: load, search quality, comparison of commits, benchmarks, attacks."""

import os

# Read when the libraries that are measured are loaded, here and in processes that are started from here.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
