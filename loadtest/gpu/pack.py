#!/usr/bin/env python3
"""Pack what a GPU machine without network needs, into parts small enough to carry.

    .venv/bin/python loadtest/gpu/pack.py --out .gpu                     everything
    .venv/bin/python loadtest/gpu/pack.py --out .gpu --bundle DIR        with a bundle that has fp16 already
    .venv/bin/python loadtest/gpu/pack.py --out .gpu --tensorrt DIR      with the libraries of TensorRT 10 for CUDA 13

Runs in the project's environment. Takes about ten minutes on two cores. A second run reuses what is in the folder
and is quick.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

import fatbin
import parts
import weights
import wheels

HERE: Final = Path(__file__).resolve().parent
PROJECT: Final = HERE.parents[1]
_MOST_TEXTS: Final = 4096
_REFERENCE_TEXTS: Final = 200


def main() -> None:
    """Stage everything below `--out`, and write the parts beside it."""
    given = _arguments()
    sys.path[:0] = [str(PROJECT), str(PROJECT / "protos/python")]
    out = given.out.resolve()
    stage = out / "stage"
    for name in ("site", "bundle", "checkpoint", "data", "kit"):
        (stage / name).mkdir(parents=True, exist_ok=True)
    if given.packages:
        _say("downloading and unpacking Python packages")
        wheels.download_wheels(PROJECT / "constraints.txt", out / "wheels")
        wheels.unpack_wheels(out / "wheels", stage / "site", given.architecture)
    wheels.write_own_metadata(PROJECT / "pyproject.toml", stage / "site")
    checkpoint = given.checkpoint or _demo_checkpoint()
    bundle = given.bundle or exported_bundle(checkpoint, out / "bundles")
    plain = plain_graph(checkpoint, out) if given.tensorrt else None
    stage_model(bundle, plain, checkpoint, stage)
    stage_texts(bundle, given.texts, stage / "data")
    if given.tensorrt:
        stage_tensorrt(given.tensorrt, stage / "tensorrt", given.architecture)
    shutil.rmtree(stage / "kit")
    shutil.copytree(HERE, stage / "kit", ignore=shutil.ignore_patterns("__pycache__"))
    _list(parts.write_parts(stage, out / "packed", out, int(given.part_mib * 2**20)))


def _arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, default=Path(".gpu"), help="folder of the parts (default: %(default)s)")
    flags.add_argument("--checkpoint", type=Path, help="folder of a checkpoint (default: the demo's)")
    flags.add_argument("--bundle", type=Path, help="bundle of it with fp16 (default: exported now)")
    flags.add_argument("--texts", type=Path, help="corpus.jsonl or corpus.jsonl.gz (default: the sample of the export)")
    flags.add_argument(
        "--architecture", type=int, default=90, help="compute capability to keep: 90 is 9.0 (H100, H200), 0 keeps all"
    )
    flags.add_argument("--part-mib", type=float, default=54, help="largest part, in MiB (default: %(default)s)")
    flags.add_argument("--tensorrt", type=Path, help="folder with libnvinfer.so.10 and the libraries that belong to it")
    flags.add_argument(
        "--packages",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="carry Python packages; without, the GPU machine must have them at the versions of constraints.txt",
    )
    return flags.parse_args()


def _say(text: str) -> None:
    print(f"== {text}", flush=True)


def _demo_checkpoint() -> Path:
    from export.demo import demo_checkpoint

    return demo_checkpoint()


def exported_bundle(checkpoint: Path, out: Path) -> Path:
    """Return the folder of a bundle with fp32, fp16 and int8 graphs, exported unless it is there."""
    if not list(out.glob("*/*/fp16.onnx")):
        _say("exporting the bundle with fp16")
        path = os.pathsep.join([str(PROJECT), str(PROJECT / "protos/python")])
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "export", str(checkpoint), "--out", str(out), "--fp16", "--name", "model"]
        subprocess.run(command, check=True, cwd=PROJECT, env=environment)  # noqa: S603 - our own program
    return min(out.glob("*/*/fp16.onnx")).parent


def plain_graph(checkpoint: Path, out: Path) -> Path:
    """Return the graph without ONNX Runtime's fusions, which TensorRT needs, exported unless it is there."""
    path = out / "plain.onnx"
    if not path.exists():
        _say("exporting the graph without fusions")
        import onnx

        from export import tensorrt
        from export.checkpoint.reader import read_checkpoint
        from export.reference.loader import load_reference

        onnx.save(tensorrt.plain_graph(load_reference(read_checkpoint(str(checkpoint)), multi_vector=False)), path)
    return path


def stage_model(bundle: Path, plain: Path | None, checkpoint: Path, stage: Path) -> None:
    """Stage the bundle without its weights, and the checkpoint with its weights as planes of bytes."""
    written = stage / "bundle/recipes.json"
    if written.exists() and (plain is None or plain.name in json.loads(written.read_text())):
        return
    _say("cutting the graphs")
    known = weights.known_pieces(weights.read_safetensors(checkpoint / "model.safetensors"))
    graphs = sorted(bundle.glob("*.onnx")) + ([plain] if plain else [])
    recipes = {graph.name: weights.cut_graph(graph, known, stage / "bundle") for graph in graphs}
    for path in bundle.iterdir():
        if path.is_file() and path.suffix != ".onnx":
            shutil.copy2(path, stage / "bundle" / path.name)
    weights.split_planes(checkpoint / "model.safetensors", stage / "checkpoint")
    for path in checkpoint.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".txt") and path.name != "data_config.json":
            target = stage / "checkpoint/rest" / path.relative_to(checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    written.write_text(json.dumps(recipes))


def stage_texts(bundle: Path, corpus: Path | None, folder: Path) -> None:
    """Stage texts, and the vectors that the fp32 graph gives for some of them on a processor."""
    if (folder / "reference.npz").exists():
        return
    _say("computing reference vectors")
    from services.inference.bundle import TOKENIZER, open_bundle
    from services.inference.session import Session
    from services.inference.tokenizer import Tokenizer

    texts = _read_texts(corpus)
    (folder / "texts.json").write_text(json.dumps(texts))
    opened = open_bundle(bundle)
    tokenizer = Tokenizer(bundle / TOKENIZER, max_token_count=opened.manifest.max_token_count)
    session = Session(opened, "fp32", threads=os.cpu_count() or 1)
    # Of all lengths: one in eight short, as queries are.
    some = [text[:40] if at % 8 == 0 else text[: 100 + 8 * at] for at, text in enumerate(texts[:_REFERENCE_TEXTS])]
    rows = [tokenizer.single(ids, "end") for ids in tokenizer.tokenize(some)]
    vectors = [session.run([row], ["dense"])["dense"][0] for row in rows]
    np.savez(folder / "reference.npz", texts=np.array(some), vectors=np.stack(vectors))


def _read_texts(corpus: Path | None) -> list[str]:
    """Return the passages of a BEIR corpus, or of the sample that the export measures with."""
    if corpus is None:
        from export.calibration_texts import text_sample

        sample = text_sample()
        return [*sample.documents, *sample.queries]
    with gzip.open(corpus, "rt", encoding="utf-8") if corpus.suffix == ".gz" else corpus.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, _MOST_TEXTS)]
    return [f"{row.get('title', '')} {row['text']}".strip() for row in rows]


def stage_tensorrt(source: Path, folder: Path, architecture: int) -> None:
    """Stage the libraries that ONNX Runtime's TensorRT provider loads, with the resources of one architecture."""
    folder.mkdir(exist_ok=True)
    libraries = r"lib(nvinfer|nvinfer_plugin|nvonnxparser)\.so\.10"
    wanted = re.compile(rf"{libraries}|libnvinfer_builder_resource(_sm{architecture}|_ptx)\.so\.10.*")
    for path in sorted(source.rglob("lib*.so*")):
        if wanted.fullmatch(path.name) and not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
            if architecture:
                fatbin.blank(folder / path.name, architecture)
    if not (folder / "libnvinfer.so.10").exists():
        raise SystemExit(f"{source} has no libnvinfer.so.10; expected the libraries of TensorRT 10")


def _list(folders: list[Path]) -> None:
    sizes = [sum(path.stat().st_size for path in folder.iterdir()) / 2**20 for folder in folders]
    _say(f"{len(folders)} parts, {sum(sizes):.1f} MiB in all")
    for folder, size in zip(folders, sizes, strict=True):
        print(f"{folder.name}  {size:5.1f} MiB  {', '.join(sorted(path.name for path in folder.iterdir()))}")


if __name__ == "__main__":
    main()
