"""The model bundle: the contract between `export/`, which writes it, and the servers, which run it.

    NAME/VERSION/
        bundle.json      the manifest below
        tokenizer.json   for the tokenizers library, without truncation and padding, which the server sets
        fp32.onnx ...    one graph for each variant, including pooling and normalization
        fp32.onnx.data   only if a graph exceeds 2 GiB: its weights
        golden.npz       real inputs and the original framework's outputs
        idf.npz          optional: `idf` float32 [V], term weights of sparse queries, which then need no model

Graphs take int64 [B, T] `input_ids`, `attention_mask` and, if the model has them, `token_type_ids`. Rows are padded on
the right; the fused attention relies on it. Outputs:

    dense         float32 [B, D], unit length if the similarity is cosine
    sparse        float32 [B, V], zero where a term is absent
    multi_vector  float32 [B, T, D], unit length; rows of padding are undefined
    logits        float32 [B, L], of a cross-encoder; of a listwise reranker one per identifier of its prompt

golden.npz is never pickled. For a bi-encoder it holds `texts` [N], used without a prompt, and one array for each
representation: `dense` [N, D], `sparse` [N, V], `multi_vector` [sum(counts), D] with `counts` [N], including special
tokens. For a cross-encoder it holds `queries` [N], `documents` [N] and `logits` [N, L]. For a listwise reranker it
holds `queries` [N], `counts` [N], and `documents` and `logits` [sum(counts)].

Rule: bundles are read-only. After the export, nothing is written into a bundle except engines under `tensorrt/`.
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
"""Role of a text, which determines its prompt; plain: no prompt."""


# Far more than any bundle needs: the manifest of a model with two variants has 3 KiB.
_MAX_MANIFEST_BYTES: Final = 2**20


class BundleError(Exception):
    """A bundle that cannot be served. Its text, for operators, has the folder and all details.

    folder   folder of the bundle
    problem  message for callers, without paths: the file, what was expected and what was found
    detail   additional text for the log
    """

    def __init__(self, folder: Path, problem: str, detail: object = "") -> None:
        super().__init__(f"{folder}: {problem}" + (f": {detail}" if detail else ""))
        self.problem = problem


# Most characters of a model's name and version.
MAX_NAME: Final = 128
MAX_VERSION: Final = 64
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]{0,254}$")]
"""Name of a file in the same folder as the manifest."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Source(_Part):
    """The origin of a bundle."""

    checkpoint: str
    """Hub id or name of the checkpoint."""
    revision: str
    """Commit of the checkpoint, or `sha256:` and the hash of its weights."""
    licence: str
    """SPDX name that the checkpoint states; `unknown` if it states none."""
    options: dict[str, str]
    """Options of the export. The same options give the same bundle."""
    versions: dict[str, str]
    """Versions of the packages that exported the bundle."""


class Parity(_Part):
    """Agreement of a variant with the original framework, measured on real text at export."""

    min_cosine: float | None = None
    """Bi-encoders: lowest cosine between a vector and the original's."""
    max_score_difference: float | None = None
    """Cross-encoders: largest absolute difference of a logit."""
    rank_agreement: float
    """Mean share of the original's 10 nearest documents that the variant also ranks among its 10 nearest."""
    batch_invariance: float
    """Lowest cosine (bi-encoder), or 1 - largest difference (cross-encoder), between a text alone and in a batch."""


class QueryIdf(_Part):
    """Term weights of sparse queries."""

    file: FileName
    """File with the array `idf`, float32 [V], >= 0; 0 for special tokens."""
    source: str
    """Data and method from which the weights were computed."""


class Slot(_Part):
    """The position of a text in a prompt: of the query in `head` and `tail`, of a document in `document`."""

    before: str = ""
    """Literal text that is tokenized together with the text, because a token may span both."""
    after: str = ""
    """The same after the text."""


class Prompt(_Part):
    """The prompt of a reranker that is a language model: `head`, then `document` for each document, then `tail`.

    In literal text, `{count}` stands for the number of documents and `{identifier}` for the identifier of the document.
    Literals between two slots are tokenized together, and each slot on its own, without special tokens.
    """

    head: tuple[str | Slot, ...]
    """Beginning of the prompt."""
    document: tuple[str | Slot, ...]
    """Part that is repeated for each document."""
    tail: tuple[str | Slot, ...]
    """End of the prompt."""
    anchor: str = ""
    """Text that is tokenized before each part but the first, and whose tokens are dropped, so that tokenizers which add
    a space to the start of a text do not add one to each part. If it is not empty, the first part is literal text."""
    identifiers: tuple[str, ...] = ()
    """Listwise rerankers: identifiers of the documents, in the order of the logits. Their number is the most documents
    of a row. Empty: a row has one document."""


class Variant(_Part):
    """One graph of a bundle."""

    file: FileName
    """Name of the graph's file."""
    parity: Parity
    """Agreement with the original."""
    tolerance: float = Field(gt=0)
    """Largest distance from golden.npz that a server accepts: 1 - cosine for vectors, absolute difference for logits.
    """
    relative_speed: float = Field(gt=0)
    """Throughput on the exporting machine divided by that of fp32."""


class Manifest(_Part):
    """The manifest of a bundle, `bundle.json`."""

    format_version: Literal[1] = FORMAT_VERSION
    """Version of this format."""
    name: str = Field(pattern=f"^{_NAME}$", max_length=MAX_NAME)
    """Name of the model in requests."""
    version: str = Field(pattern=f"^{_NAME}$", max_length=MAX_VERSION)
    """Version of the bundle."""
    task: Literal["bi_encoder", "cross_encoder", "listwise"]
    """Text to vectors, pairs of texts to logits, or a query and a list of texts to logits."""
    representations: tuple[Representation, ...] = ()
    """Bi-encoders: outputs of the graph."""
    dimensions: int = Field(0, ge=0)
    """Length of a dense vector, or of a token vector if there is no dense one; 0 without both."""
    matryoshka_dimensions: tuple[int, ...] = ()
    """Lengths of prefixes of a dense vector that can be used alone, because the model was trained for it."""
    similarity: Literal["cosine", "dot", "l2"] = "cosine"
    """Similarity of dense vectors."""
    query_prompt: str = ""
    """Text that is prepended to queries."""
    document_prompt: str = ""
    """Text that is prepended to documents."""
    max_token_count: int = Field(ge=8)
    """Longest input, including special tokens and prompt."""
    pad_token_id: int = Field(ge=0)
    """Token that pads short rows."""
    query_idf: QueryIdf | None = None
    """Term weights of sparse queries, used instead of the model; None: the model computes them."""
    inputs: tuple[str, ...]
    """Inputs of the graph, in order."""
    labels: tuple[str, ...] = ()
    """Cross-encoders: names of the logits; one for a plain reranker."""
    relevant_label: int = Field(0, ge=0)
    """Cross-encoders: index of the logit that is the relevance."""
    prompt: Prompt | None = None
    """Rerankers that are language models: the text around the query and the documents."""
    source: Source
    """Origin of the bundle."""
    variants: dict[VariantName, Variant]
    """Graphs."""
    default_variant: VariantName
    """Fastest variant on the exporting machine among those that keep parity and do not depend on the batch."""
    files: dict[FileName, str]
    """SHA-256, in hexadecimal, of every other file of the bundle."""

    def prompt_of(self, role: Role) -> str:
        """Return the prompt of a role."""
        return {"query": self.query_prompt, "document": self.document_prompt, "plain": ""}[role]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files match its manifest."""

    folder: Path
    manifest: Manifest
    digest: str
    """SHA-256 of bundle.json, in hexadecimal."""


def is_name(text: str, most: int) -> bool:
    """Return whether a text is a valid name or version of at most `most` characters, and so the name of one folder."""
    return len(text) <= most and re.fullmatch(_NAME, text) is not None


def open_bundle(folder: Path, *, expected: tuple[str, str] | None = None) -> Bundle:
    """Read a bundle and check the hash of every file. Raises BundleError.

    expected  name and version that the bundle must have; None for any
    """
    text = _read(folder)
    manifest = _parse(folder, text)
    found = (manifest.name, manifest.version)
    if expected not in {None, found}:
        raise BundleError(folder, f"{MANIFEST}: expected name and version of the request, found {' '.join(found)}")
    check_files(folder, manifest.files)
    needed = {TOKENIZER, GOLDEN, *(variant.file for variant in manifest.variants.values())}
    if manifest.query_idf:
        needed.add(manifest.query_idf.file)
    if missing := sorted(needed - set(manifest.files)):
        raise BundleError(folder, f"{MANIFEST}: expected a hash for {', '.join(missing)}, found none")
    return Bundle(folder, manifest, hashlib.sha256(text).hexdigest())


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise BundleError unless the files of a folder have these hashes and lie in it.

    Links out of the folder are rejected.
    """
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file() or path.resolve().parent != folder.resolve():
            raise BundleError(
                folder, f"{name}: expected a file in the bundle's folder, found none or a link to another folder"
            )
        found = sha256(path)
        if found != expected:
            raise BundleError(folder, f"{name}: expected SHA-256 {expected}, found {found}: damaged or changed")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises BundleError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(path.parent, f"{path.name}: cannot be read: {error.strerror}") from error


def _read(folder: Path) -> bytes:
    """Return the text of a manifest. Raises BundleError."""
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
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise BundleError(folder, f"{MANIFEST}: {where}: {first['msg']}, found {first['input']!r:.80}") from error
