"""The reference model of a checkpoint."""

from export.checkpoint.description import Checkpoint
from export.errors import ExportError, explained
from export.reference.adapter_merge import merge_adapters
from export.reference.bi_encoder import BiEncoder
from export.reference.cross_encoder import CrossEncoder
from export.reference.language_reranker import LanguageReranker
from export.reference.late_interaction import LateInteraction
from export.reference.model import ReferenceModel
from export.reference.soundness import accepted_inputs, check_model, check_weights, recorded_weights
from export.reference.sparse_encoder import SparseEncoder
from export.reference.static_embedding import StaticEncoder


def load_reference(checkpoint: Checkpoint, *, multi_vector: bool) -> ReferenceModel:
    """Load the checkpoint in its framework, float32 on the CPU, with its adapters merged. Raises ExportError.

    The tokenizer gives only inputs that the model has: DistilBERT has no segments, but some of its tokenizers do.
    """
    if checkpoint.static:
        return _load_static(checkpoint)
    with recorded_weights() as weights, explained(f"{checkpoint.folder}: transformers cannot load this checkpoint"):
        model = _load(checkpoint, multi_vector=multi_vector)
    whole = model.whole if isinstance(model, CrossEncoder | LanguageReranker) else model.body
    check_model(checkpoint, model.body, model.tokenizer)
    replaced = merge_adapters(whole, checkpoint.adapters)
    weights["missing"] = [name for name in weights["missing"] if name not in replaced]
    check_weights(checkpoint, whole, weights)
    model.tokenizer.model_input_names = accepted_inputs(model.body, model.tokenizer)
    return model


def _load_static(checkpoint: Checkpoint) -> StaticEncoder:
    if checkpoint.adapters:
        raise ExportError(f"--adapter: expected a transformer to merge it into, found {checkpoint.architecture}")
    with explained(f"{checkpoint.folder}: sentence-transformers cannot load this checkpoint"):
        return StaticEncoder(checkpoint)


def _load(
    checkpoint: Checkpoint, *, multi_vector: bool
) -> CrossEncoder | LanguageReranker | SparseEncoder | LateInteraction | BiEncoder:
    if checkpoint.task == "cross-encoder":
        return CrossEncoder(checkpoint)
    if checkpoint.task in {"yes-no-reranker", "listwise-reranker"}:
        return LanguageReranker(checkpoint)
    if checkpoint.task == "sparse":
        return SparseEncoder(checkpoint)
    if checkpoint.task == "late-interaction":
        return LateInteraction(checkpoint)
    return BiEncoder(checkpoint, multi_vector=multi_vector)
