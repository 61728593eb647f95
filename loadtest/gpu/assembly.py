"""The checkpoint and the bundle, assembled from the pieces that the parts carried."""

import json
import shutil

import weights
from kit import CHECKPOINT, HOME, bundle_folder


def assemble() -> None:
    """Assemble the checkpoint and the bundle, unless that was done before. Raises ValueError for a damaged graph."""
    if not (CHECKPOINT / "model.safetensors").exists():
        shutil.copytree(HOME / "checkpoint/rest", CHECKPOINT, dirs_exist_ok=True)
        weights.join_planes(HOME / "checkpoint", CHECKPOINT / "model.safetensors")
    if not (bundle_folder() / "bundle.json").exists():
        _assemble_bundle()


def _assemble_bundle() -> None:
    folder = bundle_folder()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights.read_safetensors(CHECKPOINT / "model.safetensors")
    for name, recipe in json.loads((HOME / "bundle/recipes.json").read_text()).items():
        weights.assemble_graph(folder / name, recipe, HOME / f"bundle/{name}.left", tensors)
    rest = [path for path in (HOME / "bundle").iterdir() if path.suffix != ".left" and path.name != "recipes.json"]
    for path in sorted(rest, key=lambda path: path.name == "bundle.json"):  # the manifest last: it marks the end
        shutil.copy2(path, folder / path.name)
