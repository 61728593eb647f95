"""TensorRT engines for this machine's GPU, built by ONNX Runtime's TensorRT provider.

The graph is exported without ONNX Runtime's fusions: TensorRT does not support their operators and makes its own.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime

from export.atomic_output import locked, staging
from export.checkpoint.reader import read_checkpoint
from export.errors import ExportError
from export.graph.body import export_body
from export.graph.logit_head import add_head
from export.graph.table import table_graph
from export.options import Options, overridden
from export.reference.loader import load_reference
from export.reference.model import ReferenceModel
from services.inference.bundle import Bundle, Manifest, sha256
from services.inference.tensorrt import ENGINES, FOLDER, GRAPH, Engines, Profile, machine_key, profile_for

Say = Callable[[str], None]

# On MiniLM, fp16 differs from the reference by about 1e-6 in cosine. Logits are about 10, with 11 bits of mantissa.
_VECTOR_TOLERANCE: Final = 1e-3
_LOGIT_TOLERANCE: Final = 5e-2


def required_key() -> str:
    """Return the key of this machine's GPU. Raises ExportError that says what is missing to build engines."""
    if key := machine_key():
        return key
    raise ExportError(
        "--tensorrt: expected an NVIDIA GPU with its driver, onnxruntime-gpu and TensorRT 10 "
        f"(pip install 'sluice-search[gpu,tensorrt]'), found ONNX Runtime with {', '.join(_providers())}; "
        "engines are built on the GPU that runs them"
    )


def plain_graph(original: ReferenceModel) -> onnx.ModelProto:
    """Return the graph in standard operators only."""
    if isinstance(original.body, np.ndarray):
        body = table_graph(original.body)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "body.onnx"
            export_body(original.body, original.task, path)
            body = onnx.load(path)
    return add_head(body, original.head)


def export_engines(source: str, bundle: Bundle, options: Options, key: str, *, say: Say = print) -> Path:
    """Build the folder of engines for this GPU beside a bundle of the same checkpoint. Raises ExportError."""
    stated = read_checkpoint(source, revision=options.revision, trust_pickle=options.trust_pickle)
    checkpoint = overridden(stated, options)
    original = load_reference(checkpoint, multi_vector=options.multi_vector)
    return build_engines(bundle, plain_graph(original), key, say=say)


def build_engines(bundle: Bundle, model: onnx.ModelProto, key: str, *, say: Say = print) -> Path:
    """Build the folder of engines for this GPU beside the bundle. Raises ExportError if TensorRT rejects the graph."""
    folder = bundle.folder / FOLDER / key
    profile = profile_for(bundle.manifest.max_token_count)
    say(f"building TensorRT engines for {key}, up to {profile.most[0]} x {profile.most[1]} tokens: takes minutes")
    with locked(folder), staging(folder) as temporary:
        _build(model, temporary, bundle.manifest, profile)
        engines = Engines(
            key=key,
            bundle=bundle.digest,
            precision="fp16",
            profile=profile,
            tolerance=_VECTOR_TOLERANCE if bundle.manifest.task == "bi_encoder" else _LOGIT_TOLERANCE,
            files={path.name: sha256(path) for path in sorted(temporary.iterdir())},
        )
        (temporary / ENGINES).write_text(engines.model_dump_json(indent=2) + "\n", encoding="utf-8")
    say(f"wrote {folder}")
    return folder


def provider_options(folder: Path, manifest: Manifest, profile: Profile) -> dict[str, Any]:
    """Return the TensorRT provider's options that build one engine for the whole profile, into the folder."""
    return {
        "trt_fp16_enable": True,
        "trt_profile_min_shapes": profile.shapes(manifest.inputs, "least"),
        "trt_profile_opt_shapes": profile.shapes(manifest.inputs, "usual"),
        "trt_profile_max_shapes": profile.shapes(manifest.inputs, "most"),
        "trt_dump_ep_context_model": True,
        "trt_ep_context_file_path": str(folder / GRAPH),
        "trt_ep_context_embed_mode": 1,  # the engine is inside the graph: one file, no paths
    }


def _build(model: onnx.ModelProto, folder: Path, manifest: Manifest, profile: Profile) -> None:
    providers = [("TensorrtExecutionProvider", provider_options(folder, manifest, profile))]
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=providers)
        rows, tokens = profile.usual
        session.run(None, {name: np.ones((rows, tokens), dtype=np.int64) for name in manifest.inputs})
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise ExportError(f"{manifest.name}: TensorRT rejected the graph: {error}") from error
    if not (folder / GRAPH).exists():
        raise ExportError(f"{manifest.name}: expected TensorRT to run the whole graph; it ran none of it")


def _providers() -> list[str]:
    providers: list[str] = onnxruntime.get_available_providers()
    return providers
