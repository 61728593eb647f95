"""One ONNX graph on the best available execution provider.

TensorRT runs only engines that were built in advance for this GPU and these versions, because it would otherwise build
them while callers wait. Without engines CUDA runs the graph, and without a GPU the CPU does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.inference.bundle import Bundle, BundleError, VariantName
from services.inference.runtime import onnxruntime as ort
from services.inference.tensorrt import GRAPH, machine_key, open_engines
from services.inference.tokenizer import Input

_TENSORRT: Final = "TensorrtExecutionProvider"
_OTHERS: Final = ("CUDAExecutionProvider", "CPUExecutionProvider")

Outputs = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Graph:
    """A graph on disk, and its limits."""

    path: Path
    providers: tuple[str, ...]
    """Execution providers to try, best first."""
    tolerance: float
    """Largest accepted distance from golden.npz."""
    max_batch_rows: int | None = None
    """Most rows of a batch; None if the graph has no limit."""


class Session:
    """A loaded graph of a bundle.

    `run` can be called from several threads at once; each call computes in its own thread.

        threads  threads of a batch that runs alone; on a CPU, more than 1 keep the weights in memory twice
    """

    def __init__(self, bundle: Bundle, variant: VariantName, *, threads: int = 1) -> None:
        manifest = bundle.manifest
        if variant not in manifest.variants:
            have = ", ".join(manifest.variants)
            raise BundleError(bundle.folder, f"expected the variant {variant!r}, found {have}")
        self.variant = variant
        self.graph = best_graph(bundle, variant)
        self._session = _open(self.graph, 1)
        self.opened_with = self.execution_provider
        """Execution provider at the start. ONNX Runtime continues with another one if it fails."""
        on_cpu = self.execution_provider == "CPUExecutionProvider"
        self._wide = _open(self.graph, threads) if threads > 1 and on_cpu else self._session
        self._inputs = manifest.inputs
        self._pad_token_id = manifest.pad_token_id
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())
        shapes = {output.name: output.shape for output in self._session.get_outputs()}
        self.widths = {name: shape[-1] for name, shape in shapes.items() if shape and isinstance(shape[-1], int)}
        """Size of the last axis of each output, if the graph states it."""
        expected = manifest.representations if manifest.task == "bi_encoder" else ("logits",)
        if missing := set(expected) - set(self.outputs):
            raise BundleError(bundle.folder, f"expected outputs {expected}, the graph lacks {sorted(missing)}")

    def close(self) -> None:
        """Free the graph's memory. No run may follow."""
        del self._session, self._wide

    @property
    def execution_provider(self) -> str:
        """Execution provider in use, such as `CPUExecutionProvider`."""
        return str(self._session.get_providers()[0])

    def run(self, inputs: Sequence[Input], wanted: Sequence[str], *, alone: bool = False) -> Outputs:
        """Return the wanted outputs of a batch of rows, padded to the longest.

        See services/inference/bundle.py for shapes.

            alone  no other batch is running, so use all threads
        """
        lengths = [len(row.ids) for row in inputs]
        longest = max(1, *lengths)  # not every graph computes rows without tokens
        names = list(wanted)
        session = self._wide if alone else self._session
        arrays = session.run(names, self._feeds(inputs, lengths, longest))
        return dict(zip(names, arrays, strict=True))

    def _feeds(self, inputs: Sequence[Input], lengths: list[int], longest: int) -> dict[str, NDArray[Any]]:
        ids = np.full((len(inputs), longest), self._pad_token_id, dtype=np.int64)
        for position, row in enumerate(inputs):
            ids[position, : lengths[position]] = row.ids
        feeds = {"input_ids": ids}
        feeds["attention_mask"] = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
        if "token_type_ids" in self._inputs:
            types = np.zeros_like(ids)
            for position, row in enumerate(inputs):
                if row.type_ids is not None:
                    types[position, : lengths[position]] = row.type_ids
            feeds["token_type_ids"] = types
        return feeds


def best_graph(bundle: Bundle, variant: VariantName) -> Graph:
    """Return the engines for this machine if there are any, else the variant.

    Raises BundleError for damaged engines.
    """
    available = ort.get_available_providers()
    others = tuple(name for name in _OTHERS if name in available)
    key = machine_key()
    found = open_engines(bundle, key) if key else None
    if found:
        folder, engines = found
        return Graph(folder / GRAPH, (_TENSORRT, *others), engines.tolerance, engines.profile.most[0])
    stated = bundle.manifest.variants[variant]
    return Graph(bundle.folder / stated.file, others, stated.tolerance)


def _open(graph: Graph, threads: int) -> Any:
    """Return a session of ONNX Runtime with so many threads for each call.

    Raises BundleError if the graph cannot be loaded.

    Idle threads sleep. By default they spin, and take the core from other batches.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(graph.path), options, providers=list(graph.providers))
    except Exception as error:
        message = f"{graph.path.name}: ONNX Runtime rejected the graph; see the server's log"
        raise BundleError(graph.path.parent, message, error) from error
