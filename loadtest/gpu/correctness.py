"""Whether the graphs open on the GPU, what they compute there, and what stays on the processor."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs import VARIANTS, full_batch, graph_file, open_graph, padded_batch
from kit import HOME, ON_CPU, OUT, PROVIDERS, bundle_folder, environment, manifest
from results import record

_OPEN = """
import sys
import onnxruntime
path, preloaded, *providers = sys.argv[1:]
if preloaded:
    onnxruntime.preload_dlls(directory=preloaded)
print("PROVIDER", onnxruntime.InferenceSession(path, providers=providers).get_providers()[0])
"""


def opens() -> None:
    """Record versions, and whether the CUDA provider loads: with folders of libraries given, and as Sluice does it."""
    import onnxruntime as ort

    available = ",".join(ort.get_available_providers())
    record("opens", python=sys.version.split()[0], onnxruntime=ort.__version__, providers=available)
    if not ON_CPU:
        query = ["--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
        subprocess.run(["nvidia-smi", *query], check=False)  # noqa: S603, S607 - whichever driver there is
    packages = [base for base in sys.path if base.endswith("-packages") and (Path(base) / "nvidia").is_dir()]
    _open("folders given", libraries=True)
    _open("as Sluice opens it", libraries=False)
    _open("preload_dlls", libraries=False, preloaded=next(iter(packages), ""))
    for library in sorted((HOME / "site/onnxruntime/capi").glob("libonnxruntime_providers_*.so")):
        done = subprocess.run(  # noqa: S603 - our own arguments
            ["ldd", library],  # noqa: S607 - whichever there is
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        missing = [line.split()[0] for line in done.stdout.splitlines() if "not found" in line]
        record("opens", library=library.name, missing=",".join(missing) or "nothing")


def _open(how: str, *, libraries: bool, preloaded: str = "") -> None:
    """Record the provider that a fresh process opens the fp32 graph with."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", _OPEN, str(graph_file("fp32")), preloaded, *PROVIDERS],
        capture_output=True,
        text=True,
        env=environment(libraries=libraries),
        check=False,
    )
    provider = done.stdout.rpartition("PROVIDER ")[2].strip()
    record("opens", how=how, provider=provider or f"failed: {done.stderr[-400:]}")
    if provider != PROVIDERS[0]:
        print(done.stderr[-1500:])


def packed() -> None:
    """Make a bundle whose fp16 graph removes the padding inside (RemovePadding, PackedAttention), if possible."""
    import onnx
    from onnxruntime.transformers.convert_to_packing_mode import PackingMode
    from onnxruntime.transformers.onnx_model import OnnxModel

    from services.inference.bundle import sha256

    plain, folder = bundle_folder(), bundle_folder("packed")
    folder.mkdir(parents=True, exist_ok=True)
    graph = OnnxModel(onnx.load(plain / "fp16.onnx"))
    PackingMode(graph).convert(False)
    onnx.save(graph.model, folder / "fp16.onnx")
    for path in plain.iterdir():
        if path.suffix != ".onnx" and path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    names = [name for name in manifest()["files"] if not name.endswith(".onnx")]
    changes = {
        "variants": {"fp16": manifest()["variants"]["fp16"]},
        "default_variant": "fp16",
        "files": {name: sha256(folder / name) for name in [*names, "fp16.onnx"]},
    }
    (folder / "bundle.json").write_text(json.dumps(manifest() | changes))
    operators = sorted({node.op_type for node in graph.model.graph.node})
    record("packed", operators=",".join(name for name in operators if "Pad" in name or "Packed" in name))


def parity() -> None:
    """Record the distance in cosine to fp32 on a processor: of texts alone and in batches, with and without TF32."""
    from services.inference.bundle import open_bundle
    from services.inference.tokenizer import Tokenizer

    reference = np.load(HOME / "data/reference.npz")
    stated = open_bundle(bundle_folder()).manifest
    tokenizer = Tokenizer(bundle_folder() / "tokenizer.json", max_token_count=stated.max_token_count)
    texts = reference["texts"].tolist()[: 8 if ON_CPU else None]
    rows = [tokenizer.single(ids, "end").ids for ids in tokenizer.tokenize(texts)]
    for variant in VARIANTS:
        for options in ({}, {"use_tf32": "0"}) if variant == "fp32" and not ON_CPU else ({},):
            try:
                session = open_graph(variant, options)
                for size in (1, 32):
                    batches = [padded_batch(session, rows[at : at + size]) for at in range(0, len(rows), size)]
                    vectors = np.concatenate([session.run(["dense"], batch)[0] for batch in batches])
                    _record_drift(vectors, reference["vectors"], variant=variant, options=str(options), batch=size)
            except Exception as error:
                record("parity", variant=variant, options=str(options), failed=str(error)[:300])


def _record_drift(vectors: NDArray[Any], reference: NDArray[np.float32], *, variant: str, **case: object) -> None:
    """Record the distance of vectors to the first rows of the reference."""
    expected = reference[: len(vectors)]
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    drift = 1 - (vectors * expected).sum(1) / lengths
    record(
        "parity",
        variant=variant,
        **case,
        worst=float(drift.max()),
        mean=float(drift.mean()),
        finite=bool(np.isfinite(vectors).all()),
        stated_tolerance=manifest()["variants"]["fp16" if variant == "packed" else variant]["tolerance"],
    )


def placed() -> None:
    """Record the provider and the time of each graph's operators: each one on the processor costs copies."""
    for variant in VARIANTS:
        try:
            for provider, operators in _operator_times(variant).items():
                record("placed", variant=variant, provider=provider, us=dict(operators))
        except Exception as error:
            record("placed", variant=variant, failed=str(error)[:300])


def _operator_times(variant: str) -> dict[str, Counter[str]]:
    """Return the time of each operator in the last of three runs by provider, in microseconds."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.enable_profiling = True
    settings.profile_file_prefix = str(OUT / f"profile-{variant}")
    session = ort.InferenceSession(str(graph_file(variant)), settings, providers=list(PROVIDERS))
    for _ in range(3):
        session.run(None, full_batch(session, 2 if ON_CPU else 32, 64))
    profile = Path(session.end_profiling())
    nodes = [event for event in json.loads(profile.read_text()) if event.get("cat") == "Node"]
    profile.unlink()
    events = [event for event in nodes if event["name"].endswith("_kernel_time")]
    where: dict[str, Counter[str]] = {}
    for event in events[-(len(events) // 3) :]:
        provider = event["args"]["provider"].removesuffix("ExecutionProvider")
        where.setdefault(provider, Counter())[event["args"]["op_name"]] += event["dur"]
    return where
