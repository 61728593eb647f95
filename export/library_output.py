"""What libraries print: warnings, logs and progress that the user of the command cannot act on."""

import logging
import sys
import warnings
from typing import Final

import onnxruntime
import transformers
from huggingface_hub.utils.tqdm import disable_progress_bars

_LOGGERS: Final = ("onnxruntime", "optimum", "sentence_transformers", "torch", "huggingface_hub")
# Failures are reported by exceptions; ONNX Runtime also writes them to standard error.
_FATAL: Final = 4


def silence() -> None:
    """Keep the warnings, logs and progress bars of libraries from the terminal, except progress of a download."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        disable_progress_bars()
    onnxruntime.set_default_logger_severity(_FATAL)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
