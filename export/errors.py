"""The error of an export, and sentences for the failures of libraries."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Packages whose failures are defects of Sluice, not of a checkpoint.
_OWN: Final = ("export", "services")
_MOST_CHARACTERS: Final = 240
# What libraries say, and what it means.
_KNOWN: Final = (
    (
        r"trust_remote_code",
        "the checkpoint needs Python code of its own, and Sluice never runs code of a checkpoint. Choose a model whose "
        "architecture is part of transformers",
    ),
    (
        r"model type `?(?P<name>[\w.-]+)`? but Transformers does not recognize",
        "the installed version of transformers does not know the architecture {name}. Choose a model of another "
        "architecture",
    ),
    (
        r"size mismatch for (?P<name>\S+): .*?torch\.Size\((?P<found>\[.*?\])\).*?torch\.Size\((?P<expected>\[.*?\])\)",
        "the weights contradict config.json: expected {name} of shape {expected}, found {found}",
    ),
    (
        r"Can't load (feature extractor|image processor|processor)",
        "the architecture reads images, sound or pages, and only models of texts alone are supported",
    ),
    (
        r"Unrecognized processing class",
        "transformers finds no tokenizer for this architecture. Save the tokenizer that the model was trained with in "
        "this folder",
    ),
    (r"(?i)(out of memory|can't allocate memory|bad_alloc)", "the model needs more memory than this machine has"),
    (
        r"(?i)(safetensorerror|deserializing header|incompletemetadata)",
        "a file of weights is damaged. Download it again",
    ),
    (
        r"(?i)(instantiate the backend tokenizer|sentencepiece|tiktoken)",
        "the tokenizer has no tokenizer.json, and it cannot be converted to one here. Save it with "
        "`save_pretrained` where sentencepiece is installed",
    ),
)
_ADVICE: Final = "Choose another model, or run again with --verbose to see where it failed"
_CAMEL_CASE: Final = re.compile(r"\b[A-Z][a-z0-9]+(?:[A-Z]+[a-z0-9]*)+\b")


class ExportError(Exception):
    """A checkpoint that cannot become a bundle. The message says why and what to do."""


@contextmanager
def explained(problem: str) -> Iterator[None]:
    """Raise ExportError, with the problem and its cause, if a library fails in the block.

    Failures in Sluice's own code are not changed: they are defects.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        if is_own(error):
            raise
        raise ExportError(f"{problem}: {_known_cause(error) or f'{cause(error)}. {_ADVICE}'}") from error


def explanation(error: Exception) -> str:
    """Return a sentence for the failure of an export: what failed, why, and what to do."""
    if isinstance(error, ExportError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror.lower()}. Nothing was written"
    return (
        f"unexpected failure: {cause(error)}. This is probably a defect of Sluice: run again with --verbose, and "
        "report what it prints. Nothing was written"
    )


def is_own(error: BaseException) -> bool:
    """Return whether Sluice's own code raised the error, not a library that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _OWN


def cause(error: BaseException) -> str:
    """Return the cause of a library's error as a sentence, without names of classes and paths of installed packages."""
    if known := _known_cause(error):
        return known
    if isinstance(error, KeyError):
        return f"{str(error).strip(chr(39))} is missing"
    return _plain(str(error)) or "it gives no reason"


def _known_cause(error: BaseException) -> str | None:
    """Return the sentence for a failure of a library that has one, which says what to do."""
    text = f"{type(error).__name__}: {error}"
    for pattern, sentence in _KNOWN:
        if found := re.search(pattern, text, re.DOTALL):
            return sentence.format(**found.groupdict())
    return None


def _plain(message: str) -> str:
    """Return the first line of a message, shortened, as plain text."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (.*?)(?: Status Message: .*)?$", r"\1", line)
    line = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", line)
    line = re.sub(r"\S*(?:site-packages|onnxruntime_src|dist-packages)\S*", "", line)
    line = re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", line)
    line = _CAMEL_CASE.sub(lambda match: re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", match[0]).lower(), line)
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS].rstrip()} ..."
