"""TensorRT engines: build, reuse, parity and speed, when the parts carried its libraries."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphs import full_batch
from kit import HOME, bundle_folder
from results import median_s, record

if TYPE_CHECKING:
    from services.inference.bundle import Bundle
    from services.inference.session import Session

_SHAPES = ((1, 1), (1, 16), (7, 33), (16, 64), (64, 64), (64, 256), (33, 101))


def engines() -> None:
    """Record what TensorRT does with the graph, or why it cannot be asked."""
    from services.inference.bundle import open_bundle
    from services.inference.session import Session
    from services.inference.tensorrt import machine_key

    key = machine_key()
    if key is None:
        record("engines", skipped="no libnvinfer.so.10 here: pack with --tensorrt")
        return
    bundle = open_bundle(bundle_folder())
    _build(bundle, key)
    started = time.perf_counter()
    session = Session(bundle, "fp16")
    record("engines", provider=session.execution_provider, open_s=time.perf_counter() - started)
    _record_parity(bundle, session)
    slow = [shape for shape in _SHAPES if _first_run_s(session, *shape) > 1]
    record("engines", built_while_serving=str(slow) if slow else "none")


def _build(bundle: "Bundle", key: str) -> None:
    """Build engines beside the bundle. As `export/tensorrt.py` does it, which needs Optimum: keep the two alike."""
    import onnxruntime as ort

    from services.inference.bundle import sha256
    from services.inference.tensorrt import ENGINES, FOLDER, GRAPH, Engines, profile_for

    folder: Path = bundle.folder / FOLDER / key
    folder.mkdir(parents=True, exist_ok=True)
    profile, inputs = profile_for(bundle.manifest.max_token_count), bundle.manifest.inputs
    options = {
        "trt_fp16_enable": True,
        "trt_profile_min_shapes": profile.shapes(inputs, "least"),
        "trt_profile_opt_shapes": profile.shapes(inputs, "usual"),
        "trt_profile_max_shapes": profile.shapes(inputs, "most"),
        "trt_dump_ep_context_model": True,
        "trt_ep_context_file_path": str(folder / GRAPH),
        "trt_ep_context_embed_mode": 1,
    }
    started = time.perf_counter()
    provider = ("TensorrtExecutionProvider", options)
    built = ort.InferenceSession(str(bundle.folder / "plain.onnx"), providers=[provider])
    built.run(None, full_batch(built, *profile.usual))
    record("engines", key=key, build_s=time.perf_counter() - started, wrote=(folder / GRAPH).exists())
    files = {GRAPH: sha256(folder / GRAPH)}
    stated = Engines(key=key, bundle=bundle.digest, precision="fp16", profile=profile, tolerance=1e-3, files=files)
    (folder / ENGINES).write_text(stated.model_dump_json())


def _record_parity(bundle: "Bundle", session: "Session") -> None:
    from services.inference.tokenizer import Tokenizer

    tokenizer = Tokenizer(bundle.folder / "tokenizer.json", max_token_count=bundle.manifest.max_token_count)
    reference = np.load(HOME / "data/reference.npz")
    rows = [tokenizer.single(ids, "end") for ids in tokenizer.tokenize(reference["texts"].tolist())]
    vectors = np.concatenate([session.run([row], ["dense"])["dense"] for row in rows])
    record("engines", worst=float(1 - (vectors * reference["vectors"]).sum(1).min()))


def _first_run_s(session: "Session", rows: int, length: int) -> float:
    """Record the speed of a shape, and return the seconds of its first run: over 1 s, an engine was built in it."""
    batch = full_batch(session._session, rows, length)
    started = time.perf_counter()
    session._session.run(None, batch)
    first = time.perf_counter() - started
    seconds = median_s(lambda: session._session.run(None, batch), seconds=0.25)
    speeds = {"first_ms": first * 1e3, "ms": seconds * 1e3, "tokens_per_s": rows * length / seconds}
    record("engines", rows=rows, length=length, **speeds)
    return first
