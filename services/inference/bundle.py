"""The model bundle: the contract between `export/`, which writes it, and the servers, which run it.

    NAME/VERSION/
        bundle.json      the manifest below
        tokenizer.json   of the tokenizers library, without truncation and padding: the server sets both
        fp32.onnx ...    one graph a variant, pooling and normalisation inside
        golden.npz       real inputs and what the original framework made of them
        idf.npz          perhaps: `idf` float32 [V], weights of a sparse query's terms, which then needs no model

Graphs take int64 [B, T] `input_ids`, `attention_mask` and, when the model has them, `token_type_ids`; rows are padded
on the right, on which the fused attention relies. They give
    dense         float32 [B, D], unit length when similarity is cosine
    sparse        float32 [B, V], zero where a term is absent
    multi_vector  float32 [B, T, D], unit length; rows of padding mean nothing
    logits        float32 [B, L], of a cross-encoder

golden.npz holds (never pickled) for a bi-encoder `texts` [N], given as they are, without prompt, and one array for
each representation: `dense` [N, D], `sparse` [N, V], `multi_vector` [sum(counts), D] with `counts` [N], special
tokens counted; for a cross-encoder `queries` [N], `documents` [N] and `logits` [N, L].

Rule: bundles are read-only. Nothing is written into one after export but engines under `tensorrt/`.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FORMAT_VERSION: Final = 1
MANIFEST: Final = "bundle.json"
TOKENIZER: Final = "tokenizer.json"
GOLDEN: Final = "golden.npz"
QUERY_IDF: Final = "idf.npz"

Representation = Literal["dense", "sparse", "multi_vector"]
VariantName = Literal["fp32", "fp16", "int8"]
Role = Literal["query", "document", "plain"]
"""What a text is to the model, which wants another prompt before each; plain: none."""


# Far more than any bundle needs: the manifest of a model with two variants takes 3 KiB.
_MAX_MANIFEST_BYTES: Final = 2**20


class BundleError(Exception):
    """A bundle that cannot be served. As a text, for whoever runs the server, it names the folder and all details.

    folder   of the bundle
    problem  for callers: which file of the bundle, what was expected and what was found; no paths
    detail   for the log, where it helps beyond that
    """

    def __init__(self, folder: Path, problem: str, detail: object = "") -> None:
        super().__init__(f"{folder}: {problem}" + (f": {detail}" if detail else ""))
        self.problem = problem


# Most characters of the name of a model, and of a version.
MAX_NAME: Final = 128
MAX_VERSION: Final = 64
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]{0,254}$")]
"""A file directly in the folder of its manifest."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Source(_Part):
    """Where a bundle comes from."""

    checkpoint: str
    """Hub id or name of the checkpoint."""
    revision: str
    """Commit of the checkpoint, or `sha256:` and the hash of its weights."""
    licence: str
    """SPDX name as the checkpoint states it; `unknown` when it states none."""
    options: dict[str, str]
    """What the export was asked for: the same again gives the same bundle."""
    versions: dict[str, str]
    """Versions of the packages that exported it."""


class Parity(_Part):
    """How near a variant is to the original framework, measured at export on real text."""

    min_cosine: float | None = None
    """Bi-encoders: least cosine between a vector and the original's."""
    max_score_difference: float | None = None
    """Cross-encoders: largest absolute difference of a logit."""
    rank_agreement: float
    """Mean share of the original's 10 nearest documents that the variant also ranks among its 10 nearest."""
    batch_invariance: float
    """Least cosine (bi-encoder), or 1 - largest difference (cross-encoder), between a text alone and in a batch."""


class QueryIdf(_Part):
    """Weights of a sparse query's terms."""

    file: FileName
    """Array `idf`, float32 [V], >= 0; 0 for special tokens."""
    source: str
    """What they were computed from, and how."""


class Variant(_Part):
    """One graph of a bundle."""

    file: FileName
    """Its file name."""
    parity: Parity
    """How near it is to the original."""
    tolerance: float = Field(gt=0)
    """Largest distance from golden.npz a server accepts: 1 - cosine for vectors, absolute for logits."""
    relative_speed: float = Field(gt=0)
    """Throughput on the exporting machine ÷ that of fp32."""


class Manifest(_Part):
    """What a bundle holds: `bundle.json`."""

    format_version: Literal[1] = FORMAT_VERSION
    """Version of this layout."""
    name: str = Field(pattern=f"^{_NAME}$", max_length=MAX_NAME)
    """Name that clients use in requests."""
    version: str = Field(pattern=f"^{_NAME}$", max_length=MAX_VERSION)
    """Version of the bundle."""
    task: Literal["bi_encoder", "cross_encoder"]
    """Text to vectors, or a pair of texts to logits."""
    representations: tuple[Representation, ...] = ()
    """Bi-encoders: outputs of the graph."""
    dimensions: int = Field(0, ge=0)
    """Length of a dense vector, or of a token's where there is no dense one; 0 without both."""
    matryoshka_dimensions: tuple[int, ...] = ()
    """Prefixes of a dense vector that the model was trained to be used alone."""
    similarity: Literal["cosine", "dot", "l2"] = "cosine"
    """How dense vectors are compared."""
    query_prompt: str = ""
    """Prepended to queries."""
    document_prompt: str = ""
    """Prepended to documents."""
    max_token_count: int = Field(ge=8)
    """Longest input, special tokens and prompt included."""
    pad_token_id: int = Field(ge=0)
    """Token that fills short rows."""
    query_idf: QueryIdf | None = None
    """What weighs the terms of sparse queries in place of the model; None: the model does."""
    inputs: tuple[str, ...]
    """Inputs of the graph, in order."""
    labels: tuple[str, ...] = ()
    """Cross-encoders: names of the logits; one for a plain reranker."""
    relevant_label: int = Field(0, ge=0)
    """Cross-encoders: which logit says that the document answers the query."""
    source: Source
    """Where it comes from."""
    variants: dict[VariantName, Variant]
    """The graphs."""
    default_variant: VariantName
    """The fastest on the exporting machine among those that keep parity and do not depend on the batch."""
    files: dict[FileName, str]
    """SHA-256 in hex of every other file of the bundle."""

    def prompt_of(self, role: Role) -> str:
        """What goes before a text of this role."""
        return {"query": self.query_prompt, "document": self.document_prompt, "plain": ""}[role]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files are what its manifest says."""

    folder: Path
    manifest: Manifest
    digest: str
    """SHA-256 of bundle.json, in hex."""


def is_name(text: str, most: int) -> bool:
    """Return whether a text may be a name or a version of so many characters, and so is one folder of a repository."""
    return len(text) <= most and re.fullmatch(_NAME, text) is not None


def open_bundle(folder: Path, *, expected: tuple[str, str] | None = None) -> Bundle:
    """Read a bundle and check every file's hash. Raises BundleError, also when it has another name and version.

    expected  name and version; None for any
    """
    text = _read(folder)
    manifest = _parse(folder, text)
    found = (manifest.name, manifest.version)
    if expected not in {None, found}:
        raise BundleError(folder, f"{MANIFEST}: expected name and version as asked for, found {' '.join(found)}")
    check_files(folder, manifest.files)
    needed = {TOKENIZER, GOLDEN, *(variant.file for variant in manifest.variants.values())}
    if manifest.query_idf:
        needed.add(manifest.query_idf.file)
    if missing := sorted(needed - set(manifest.files)):
        raise BundleError(folder, f"{MANIFEST}: expected a hash for {', '.join(missing)}, found none")
    return Bundle(folder, manifest, hashlib.sha256(text).hexdigest())


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise BundleError unless files of a folder have these hashes, and lie in it: links that lead away are refused."""
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file() or path.resolve().parent != folder.resolve():
            raise BundleError(folder, f"{name}: expected a file of the bundle, found none, or a link to another place")
        found = sha256(path)
        if found != expected:
            raise BundleError(folder, f"{name}: expected SHA-256 {expected}, found {found}: damaged or changed")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. Raises BundleError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(path.parent, f"{path.name}: cannot be read: {error.strerror}") from error


def _read(folder: Path) -> bytes:
    """The text of a manifest."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(folder, f"{MANIFEST}: expected a manifest, found none: {error.strerror}") from error
    if len(text) > _MAX_MANIFEST_BYTES:
        raise BundleError(folder, f"{MANIFEST}: expected at most {_MAX_MANIFEST_BYTES:,} bytes, found more")
    return text


def _parse(folder: Path, text: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise BundleError(folder, f"{MANIFEST}: {where}: {first['msg']}, found {first['input']!r:.80}") from error
