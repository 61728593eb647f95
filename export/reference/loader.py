"""The reference model of a checkpoint."""

from export.checkpoint.description import Checkpoint
from export.errors import ExportError
from export.reference.adapter_merge import merge_adapters
from export.reference.bi_encoder import BiEncoder
from export.reference.cross_encoder import CrossEncoder
from export.reference.late_interaction import LateInteraction
from export.reference.model import ReferenceModel
from export.reference.sparse_encoder import SparseEncoder


def load_reference(checkpoint: Checkpoint, *, multi_vector: bool) -> ReferenceModel:
    """Load the checkpoint in its framework, float32 on the CPU, with its adapters merged. Raises ExportError."""
    model = _load(checkpoint, multi_vector=multi_vector)
    merge_adapters(model.body, checkpoint.adapters)
    return model


def _load(checkpoint: Checkpoint, *, multi_vector: bool) -> ReferenceModel:
    try:
        if checkpoint.task == "cross-encoder":
            return CrossEncoder(checkpoint)
        if checkpoint.task == "sparse":
            return SparseEncoder(checkpoint)
        if checkpoint.task == "late-interaction":
            return LateInteraction(checkpoint)
        return BiEncoder(checkpoint, multi_vector=multi_vector)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ExportError(f"{checkpoint.folder}: expected a checkpoint that transformers loads: {error}") from error
