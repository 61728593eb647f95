"""Bundles for tests, exported by the real exporter."""

import json
import shutil
from pathlib import Path
from typing import Any

MINILM_OUT = Path(__file__).parents[2] / ".demo" / "bundles"


def export_tiny(checkpoint: Path, out: Path, **options: Any) -> Path:
    """Export a bundle of a tiny checkpoint, fp32 only: speeds of tiny models are meaningless."""
    from export.build import export_bundle
    from export.options import Options

    return export_bundle(str(checkpoint), out, Options(int8=False, **options)).folder


def export_minilm() -> Path:
    """Export the bundle of all-MiniLM-L6-v2 unless it is complete and current, and return its folder."""
    from export.build import export_bundle
    from export.demo import DEMO_OPTIONS, demo_checkpoint

    return export_bundle(str(demo_checkpoint()), MINILM_OUT, DEMO_OPTIONS).folder


def edited(bundle: Path, folder: Path, **changes: object) -> Path:
    """Copy a bundle, with changes to its manifest."""
    copy = Path(shutil.copytree(bundle, folder))
    manifest = json.loads((copy / "bundle.json").read_text()) | changes
    (copy / "bundle.json").write_text(json.dumps(manifest))
    return copy
