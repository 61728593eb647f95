"""Bundles for tests, exported by the real exporter."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from services.inference.bundle import open_bundle
from services.inference.session import Session
from services.inference.tokenizer import Tokenizer

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


def served(folder: Path, texts: list[str], output: str) -> list[np.ndarray]:
    """Return what a server's session gives for each text, all in one batch, without padding."""
    bundle = open_bundle(folder)
    tokenizer = Tokenizer(folder / "tokenizer.json", max_token_count=bundle.manifest.max_token_count)
    rows = [tokenizer.single(ids, "end") for ids in tokenizer.tokenize(texts)]
    values = Session(bundle, "fp32").run(rows, [output])[output]
    return [value if value.ndim == 1 else value[: len(row.ids)] for value, row in zip(values, rows, strict=True)]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines of the rows of two arrays."""
    result: np.ndarray = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return result
