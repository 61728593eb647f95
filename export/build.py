"""Building of a bundle: export the graph, fuse, quantize, measure, and rename it into place only if it is correct."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from export.atomic_output import locked, staging
from export.calibration_texts import Sample, list_sample, pair_sample, text_sample
from export.checkpoint.description import Checkpoint
from export.checkpoint.reader import read_checkpoint
from export.errors import ExportError, cause, explained
from export.graph.files import remove_graph, save_graph
from export.graph.head import Head
from export.idf import read_idf
from export.options import Options, bundle_path, overridden
from export.parity import verify
from export.parity.onnx_runner import GRAPH_ERRORS, Encoder, Graph
from export.reference.language_reranker import LanguageReranker
from export.reference.loader import load_reference
from export.reference.model import Outputs, ReferenceModel
from export.variants import variants_of
from services.inference.bundle import (
    GOLDEN,
    MANIFEST,
    QUERY_IDF,
    TOKENIZER,
    Bundle,
    BundleError,
    Manifest,
    Parity,
    QueryIdf,
    Source,
    Variant,
    VariantName,
    open_bundle,
    sha256,
)

_PACKAGES: Final = ("onnx", "onnxruntime", "optimum", "optimum-onnx", "sentence-transformers", "torch", "transformers")
# Few, because a server runs them at every start; of all lengths.
_GOLDEN_COUNT: Final = 12
_GOLDEN_CHARACTERS: Final = 40
_SPEED_BATCH: Final = 8
# Parameters besides embeddings. Larger models are compared on fewer texts, which takes minutes already.
_LARGE: Final = 100_000_000
# Labels that mean that the document answers the query.
_RELEVANT: Final = ("relevant", "entailment", "yes", "true")

_VARIANTS: Final[tuple[VariantName, ...]] = ("fp32", "int8", "fp16")

Say = Callable[[str], None]


def export_bundle(source: str, out: Path, options: Options, *, say: Say = print, force: bool = False) -> Bundle:
    """Export a checkpoint, a folder or a hub id, to the bundle OUT/NAME/VERSION.

    Keep an existing bundle of the same checkpoint and options unless `force`. Raises ExportError.
    """
    stated = read_checkpoint(source, revision=options.revision, trust_pickle=options.trust_pickle)
    checkpoint = overridden(stated, options)
    folder = out / bundle_path(checkpoint, options)
    with locked(folder):
        if not force and (found := _existing(folder, checkpoint, options)):
            say(f"{folder} already exists, from the same checkpoint and options; use --force to export it again")
            return found
        with staging(folder) as temporary:
            manifest = _write(temporary, checkpoint, folder.parent.name, options, say)
            (temporary / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            open_bundle(temporary)
        say(f"wrote {folder}, default variant {manifest.default_variant}")
        return open_bundle(folder)


def _existing(folder: Path, checkpoint: Checkpoint, options: Options) -> Bundle | None:
    """Return the complete bundle in the folder if it was made from this checkpoint with these options, else None."""
    try:
        found = open_bundle(folder)
    except BundleError:
        return None
    source = found.manifest.source
    is_same = (source.revision, source.options) == (checkpoint.revision, options.recorded(checkpoint.adapters))
    return found if is_same else None


def _write(folder: Path, checkpoint: Checkpoint, name: str, options: Options, say: Say) -> Manifest:
    """Write every file of a bundle except the manifest, and return the manifest. Raises ExportError without parity."""
    say(f"loading {checkpoint.name}: {checkpoint.model_type}, {checkpoint.task}")
    for adapter in checkpoint.adapters:
        say(f"merging the adapter {adapter}")
    original = load_reference(checkpoint, multi_vector=options.multi_vector)
    with explained(f"{checkpoint.name}: the tokenizer cannot be written as tokenizer.json"):
        tokenizer = _write_tokenizer(folder, original)
    query_idf = _write_query_idf(folder, checkpoint, tokenizer, options)
    pad_token_id = original.tokenizer.pad_token_id or 0
    tokenizer.enable_truncation(checkpoint.max_token_count)
    tokenizer.enable_padding(pad_id=pad_token_id, pad_token=original.tokenizer.pad_token or "[PAD]")

    say("exporting the graph")
    encoder = original if isinstance(original, LanguageReranker) else tokenizer
    sample = _sample(checkpoint, is_large=_is_large(original))
    with explained(f"{checkpoint.model_type}: this architecture cannot be exported as an ONNX graph"):
        for variant, model in variants_of(original, encoder, options, is_pairs=sample.is_pairs, say=say).items():
            save_graph(model, folder / f"{variant}.onnx")
    say(f"running the reference model on {len(sample.items)} real {_kind(sample)}")
    relevant_label = _relevant_label(checkpoint, options)
    with explained(f"{checkpoint.name}: the reference model cannot compute real texts"):
        reference = verify.Reference(sample, original.run(sample.items), relevant_label)
    for line in _check_distinct(reference.outputs):
        say(line)
    say("comparing the graphs with it")
    with explained(f"{checkpoint.model_type}: the exported graph cannot be compared with the reference model"):
        variants = _measured(folder, encoder, reference, checkpoint.model_type, say)
    for line in verify.report(variants):
        say(line)

    first = Graph(folder / "fp32.onnx", encoder)
    _write_golden(folder / GOLDEN, original, sample, first.outputs)
    return Manifest(
        name=name,
        version=options.version,
        task="listwise" if sample.is_lists else "cross_encoder" if sample.is_pairs else "bi_encoder",
        representations=original.head.outputs if isinstance(original.head, Head) else (),
        dimensions=_dimensions(reference.outputs),
        matryoshka_dimensions=options.matryoshka_dimensions,
        similarity=checkpoint.similarity,
        query_prompt=checkpoint.query_prompt,
        document_prompt=checkpoint.document_prompt,
        max_token_count=checkpoint.max_token_count,
        pad_token_id=pad_token_id,
        query_idf=query_idf,
        inputs=first.inputs,
        labels=original.labels if isinstance(original, LanguageReranker) else checkpoint.labels,
        relevant_label=relevant_label,
        prompt=original.prompt if isinstance(original, LanguageReranker) else None,
        source=Source(
            checkpoint=checkpoint.name,
            revision=checkpoint.revision,
            licence=checkpoint.licence,
            options=options.recorded(checkpoint.adapters),
            versions={package: version_of(package) for package in _PACKAGES},
        ),
        variants=variants,
        default_variant=_default_variant(variants, options),
        files={path.name: sha256(path) for path in sorted(folder.iterdir())},
    )


def _write_tokenizer(folder: Path, original: ReferenceModel) -> Tokenizer:
    """Write tokenizer.json without truncation and padding, and return the tokenizer."""
    tokenizer = Tokenizer.from_str(original.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(folder / TOKENIZER))
    return tokenizer


def _write_query_idf(folder: Path, checkpoint: Checkpoint, tokenizer: Tokenizer, options: Options) -> QueryIdf | None:
    """Write idf.npz if there are weights of query terms, and return its entry. Raises ExportError."""
    if checkpoint.task != "sparse":
        if options.query_idf:
            raise ExportError(f"--query-idf: expected a checkpoint of task sparse, found {checkpoint.task}")
        return None
    found = read_idf(checkpoint.folder, tokenizer, corpus=options.query_idf, query_weights=checkpoint.query_weights)
    if found is None:
        return None
    table, source = found
    np.savez(folder / QUERY_IDF, allow_pickle=False, idf=table)
    return QueryIdf(file=QUERY_IDF, source=source)


def _dimensions(outputs: Outputs) -> int:
    """Return the length of the dense vectors, else of the token vectors, else 0."""
    if "dense" in outputs:
        return len(outputs["dense"][0])
    return outputs["multi_vector"][0].shape[1] if "multi_vector" in outputs else 0


def _check_distinct(outputs: Outputs) -> list[str]:
    """Return a warning if texts hardly differ in the model. Raises ExportError if they do not differ at all.

    Vectors that are all alike agree with those of any graph, so parity would prove nothing.
    """
    median = verify.median_cosine(outputs)
    if median >= verify.MIN_COSINE:
        raise ExportError(
            f"expected different texts to have different vectors, found a median cosine of {median:.5f} between them: "
            "the model does not separate texts, and no comparison could show that a graph equals it"
        )
    if median < verify.DISTINCT_COSINE:
        return []
    return [
        f"warning: the median cosine between different texts is {median:.3f}, above {verify.DISTINCT_COSINE}: the "
        "cosine to the reference model says little here, and the rank agreement more"
    ]


def _measured(
    folder: Path, encoder: Encoder, reference: verify.Reference, model_type: str, say: Say
) -> dict[VariantName, Variant]:
    """Measure the variants in the folder. Raises ExportError if fp32 does not match the original model.

    Any other variant that ONNX Runtime cannot run is removed: some architectures lack the operators for it.
    """
    parities: dict[VariantName, Parity] = {}
    for path in sorted(folder.glob("*.onnx"), key=lambda path: _VARIANTS.index(path.stem)):
        try:
            parities[_VARIANTS[_VARIANTS.index(path.stem)]] = verify.measure(Graph(path, encoder), reference)
        except GRAPH_ERRORS as error:
            if path.stem == "fp32":
                raise ExportError(
                    f"{model_type}: ONNX Runtime cannot run the exported graph on texts of all lengths, so this "
                    f"architecture is not supported: {cause(error)}"
                ) from error
            say(f"skipped {path.stem}: ONNX Runtime cannot run it: {cause(error)}")
            remove_graph(path)
    if deviation := verify.deviation(parities["fp32"]):
        raise ExportError(f"{model_type}: {deviation}: no bundle was written")
    graphs = {name: Graph(folder / f"{name}.onnx", encoder, threads=1) for name in parities}
    texts = sorted(reference.sample.documents, key=len)
    batches = [texts[start : start + _SPEED_BATCH] for start in range(0, len(texts), 4 * _SPEED_BATCH)]
    speeds = verify.relative_speeds(graphs, [graphs["fp32"].feed(encoder.encode_batch(batch)) for batch in batches])
    return {
        name: Variant(
            file=f"{name}.onnx",
            parity=parity,
            tolerance=verify.tolerance(parity),
            relative_speed=round(speeds[name], 2),
        )
        for name, parity in parities.items()
    }


def _default_variant(variants: Mapping[VariantName, Variant], options: Options) -> VariantName:
    """Return the requested default variant, else the best by measurement. Raises ExportError if it was not exported."""
    wanted = options.default_variant or verify.choose(variants)
    if wanted not in variants:
        raise ExportError(f"--default-variant: expected one of {', '.join(variants)}, found {wanted}")
    return wanted


def _is_large(original: ReferenceModel) -> bool:
    body = original.body
    return isinstance(body, PreTrainedModel) and body.num_parameters(exclude_embeddings=True) > _LARGE


def _sample(checkpoint: Checkpoint, *, is_large: bool) -> Sample:
    """Return real text for a checkpoint of its task."""
    if checkpoint.task == "listwise-reranker":
        return list_sample()
    if checkpoint.task in {"cross-encoder", "yes-no-reranker"}:
        return pair_sample(is_large=is_large)
    return text_sample(is_large=is_large)


def _kind(sample: Sample) -> str:
    return "lists" if sample.is_lists else "pairs" if sample.is_pairs else "texts"


def _golden_lists(original: ReferenceModel, sample: Sample) -> dict[str, NDArray[Any]]:
    """Return golden inputs and outputs of a listwise reranker: short texts, because a row has up to 20 of them."""
    lists = [(query, sample.queries[:count]) for query, count in zip(sample.queries, (1, 3), strict=False)]
    lists.append((sample.queries[0], tuple(text[:_GOLDEN_CHARACTERS] for text in sample.documents)))
    return {
        "queries": np.array([query for query, _ in lists]),
        "counts": np.array([len(documents) for _, documents in lists], dtype=np.int64),
        "documents": np.array([document for _, documents in lists for document in documents]),
        "logits": np.concatenate(original.run(lists)["logits"]),
    }


def _write_golden(path: Path, original: ReferenceModel, sample: Sample, outputs: Sequence[str]) -> None:
    """Write golden.npz: a few items, evenly chosen, and the original model's outputs for them."""
    items = sample.items
    if sample.is_lists:
        np.savez(path, allow_pickle=False, **_golden_lists(original, sample))
        return
    some = [items[index * (len(items) - 1) // (_GOLDEN_COUNT - 1)] for index in range(_GOLDEN_COUNT)]
    result = original.run(some)
    arrays = {name: np.stack(result[name]) for name in outputs if name != "multi_vector"}
    if "multi_vector" in outputs:
        arrays["multi_vector"] = np.concatenate(result["multi_vector"])
        arrays["counts"] = np.array([len(rows) for rows in result["multi_vector"]], dtype=np.int64)
    if isinstance(some[0], str):
        arrays["texts"] = np.array(some)
    else:
        arrays["queries"], arrays["documents"] = (np.array(part) for part in zip(*some, strict=True))
    np.savez(path, allow_pickle=False, **arrays)


def _relevant_label(checkpoint: Checkpoint, options: Options) -> int:
    """Return the index of the logit that means relevant; 0 for a bi-encoder. Raises ExportError if it is unknown."""
    labels = checkpoint.labels
    if options.relevant_label is not None:
        wanted: tuple[str, ...] = (options.relevant_label.lower(),)
    elif len(labels) <= 1:
        return 0
    else:
        wanted = _RELEVANT if len(labels) > 2 else (*_RELEVANT, "label_1")
    found = [index for index, label in enumerate(labels) if label.lower() in wanted]
    if len(found) != 1:
        raise ExportError(
            f"expected one of the labels {', '.join(labels)} to mean relevant; name it with --relevant-label"
        )
    return found[0]
