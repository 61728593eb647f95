"""tei.v1 on both model servers, called by a client that knows it only by reflection."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.reranking.v1 import reranking_service_pb2 as reranking_pb
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub

from tests.support.processes import running
from tests.support.reflection import Reflected, reflected

TEXTS = ["how do I open a file", "sort", "what is a generator expression good for", "close the file and sort the list"]
LONG = "open the file and sort the list " * 64
QUERY = "how do I open a file"
ENCODER, SPARSE = "tiny", "splade-tiny"
PAIRS, PAIRS_3 = "tiny-pairs", "tiny-pairs-3"
# Without a cache, and with a batch of one row, equal numbers are equal work.
ALONE = ("--cache-entries", "0", "--max-texts", "8", "--max-text-bytes", "4096")


def of(model: str) -> tuple[tuple[str, str], ...]:
    return (("sluice-model", model),)


@pytest.fixture(scope="module")
def embedder(tiny_bi_encoder: Path, tiny_sparse: Path) -> Iterator[tuple[Reflected, str]]:
    flags = ["--bundles", str(tiny_bi_encoder), "--bundles", str(tiny_sparse), *ALONE]
    with running("services.embedding", *flags) as one, reflected(one.address) as client:
        yield client, one.address


@pytest.fixture(scope="module")
def reranker(
    tiny_bi_encoder: Path, tiny_cross_encoder: Path, tiny_cross_encoder_3_labels: Path
) -> Iterator[tuple[Reflected, str]]:
    bundles = [tiny_bi_encoder, tiny_cross_encoder, tiny_cross_encoder_3_labels]
    flags = [part for bundle in bundles for part in ("--bundles", str(bundle))]
    limits = ["--cache-entries", "0", "--max-documents", "8"]
    with running("services.reranking", *flags, *limits) as one, reflected(one.address) as client:
        yield client, one.address


def native_embed(address: str, text: str, model: str, kind: str, **fields: Any) -> embedding_pb.EmbedResponse:
    with grpc.insecure_channel(address) as channel:
        kinds = [embedding_pb.Representation.Value(f"REPRESENTATION_{kind}")]
        request = embedding_pb.EmbedRequest(texts=[text], model=model, representations=kinds, **fields)
        return EmbeddingServiceStub(channel).Embed(request, timeout=60)


def native_rerank(address: str, model: str, **fields: Any) -> reranking_pb.RerankResponse:
    with grpc.insecure_channel(address) as channel:
        request = reranking_pb.RerankRequest(query=QUERY, documents=TEXTS, model=model, **fields)
        return RerankingServiceStub(channel).Rerank(request, timeout=60)


def floats(data: bytes) -> list[float]:
    return [float(value) for value in np.frombuffer(data, dtype="<f4")]


def refused(call: Any, *arguments: Any, **fields: Any) -> tuple[grpc.StatusCode, str]:
    """Code and message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **fields)
    error: Any = caught.value
    return error.code(), error.details()


def test_reflection_and_health_list_the_services(
    embedder: tuple[Reflected, str], reranker: tuple[Reflected, str]
) -> None:
    for (client, _), names in ((embedder, ("Info", "Embed", "Tokenize")), (reranker, ("Info", "Rerank", "Predict"))):
        for name in names:
            assert f"tei.v1.{name}" in client.services
            assert client.health(f"tei.v1.{name}") == "SERVING"
    assert "tei.v1.Rerank" not in embedder[0].services


def test_vectors_are_those_of_the_native_api_bit_for_bit(embedder: tuple[Reflected, str]) -> None:
    client, address = embedder
    for text in TEXTS:
        dense = client.call("tei.v1.Embed/Embed", of(ENCODER), inputs=text)
        assert list(dense.embeddings) == floats(native_embed(address, text, ENCODER, "DENSE").dense.data)
        tokens = client.call("tei.v1.Embed/EmbedAll", of(ENCODER), inputs=text).token_embeddings
        expected = native_embed(address, text, ENCODER, "MULTI_VECTOR").multi_vector
        assert [value for token in tokens for value in token.embeddings] == floats(expected.tokens.data)
        assert [len(tokens)] == list(expected.token_counts)
        sparse = client.call("tei.v1.Embed/EmbedSparse", of(SPARSE), inputs=text).sparse_embeddings
        terms = native_embed(address, text, SPARSE, "SPARSE").sparse
        assert [term.index for term in sparse] == np.frombuffer(terms.indices.data, dtype="<i4").tolist()
        assert [term.value for term in sparse] == floats(terms.weights.data)


def test_scores_are_those_of_the_native_api_bit_for_bit(reranker: tuple[Reflected, str]) -> None:
    client, address = reranker
    for model, raw in ((PAIRS, False), (PAIRS, True), (PAIRS_3, False), (ENCODER, False)):
        answer = client.call("tei.v1.Rerank/Rerank", of(model), query=QUERY, texts=TEXTS, raw_scores=raw)
        expected = native_rerank(address, model, raw_scores=raw).results
        assert [(rank.index, rank.score) for rank in answer.ranks] == [(one.index, one.score) for one in expected]
        assert not answer.ranks[0].HasField("text")
    kept = client.call("tei.v1.Rerank/Rerank", of(PAIRS), query=QUERY, texts=TEXTS, return_text=True).ranks
    assert [rank.text for rank in kept] == [TEXTS[rank.index] for rank in kept]


def test_predictions_are_the_labels_best_first(reranker: tuple[Reflected, str]) -> None:
    client, address = reranker
    expected = native_rerank(address, PAIRS_3, order=reranking_pb.ORDER_REQUEST).results
    pairs = [{"inputs": [QUERY, text]} for text in TEXTS]
    answers = client.stream("tei.v1.Predict/PredictPairStream", pairs, of(PAIRS_3))
    for pair, answer, native in zip(pairs, answers, expected, strict=True):
        assert client.call("tei.v1.Predict/PredictPair", of(PAIRS_3), **pair).predictions == answer.predictions
        scores = {one.label: one.score for one in answer.predictions}
        assert [scores[name] for name in ("contradiction", "neutral", "entailment")] == pytest.approx(
            list(native.label_scores), abs=1e-6
        )
        assert all(first.score >= second.score for first, second in pairwise(answer.predictions))
    single = client.call("tei.v1.Predict/Predict", of(PAIRS_3), inputs=TEXTS[0])
    alone = client.call("tei.v1.Predict/PredictPair", of(PAIRS_3), inputs=[TEXTS[0]])
    assert list(single.predictions) == list(alone.predictions)
    assert sum(one.score for one in single.predictions) == pytest.approx(1)
    raw = client.call("tei.v1.Predict/Predict", of(PAIRS), inputs=TEXTS[0], raw_scores=True).predictions
    [probability] = client.call("tei.v1.Predict/Predict", of(PAIRS), inputs=TEXTS[0]).predictions
    assert probability.score == pytest.approx(1 / (1 + np.exp(-raw[0].score)))


def test_streams_answer_in_the_order_of_their_requests(
    embedder: tuple[Reflected, str], reranker: tuple[Reflected, str]
) -> None:
    client, _ = embedder
    texts = [f"{'word ' * (at * 7 % 11)} number {at}" for at in range(150)]
    messages = [{"inputs": text} for text in texts]
    dense = client.stream("tei.v1.Embed/EmbedStream", messages, of(ENCODER))
    assert len(dense) == len(texts)
    for at in (0, 70, 149):
        alone = client.call("tei.v1.Embed/Embed", of(ENCODER), inputs=texts[at])
        np.testing.assert_allclose(dense[at].embeddings, alone.embeddings, atol=1e-5)
    for method, model in (("EmbedAll", ENCODER), ("EmbedSparse", SPARSE)):
        streamed = client.stream(f"tei.v1.Embed/{method}Stream", messages[:3], of(model))
        assert [one.metadata.compute_chars for one in streamed] == list(map(len, texts[:3]))
    tokens = client.stream("tei.v1.Tokenize/TokenizeStream", messages, of(ENCODER))
    assert [len(one.tokens) + 2 for one in tokens] == [one.metadata.compute_tokens for one in dense]
    ids = [{"ids": [token.id for token in one.tokens]} for one in tokens]
    decoded = client.stream("tei.v1.Tokenize/DecodeStream", ids, of(ENCODER))
    assert [one.text for one in decoded] == [" ".join(text.split()) for text in texts]

    client, _ = reranker
    stream = [
        {"query": QUERY, "text": text, "raw_scores": not at, "return_text": not at} for at, text in enumerate(TEXTS)
    ]
    ranks = client.collect("tei.v1.Rerank/RerankStream", stream, of(PAIRS)).ranks
    together = client.call("tei.v1.Rerank/Rerank", of(PAIRS), query=QUERY, texts=TEXTS, raw_scores=True).ranks
    assert [(rank.index, rank.text) for rank in ranks] == [(rank.index, TEXTS[rank.index]) for rank in together]
    np.testing.assert_allclose([rank.score for rank in ranks], [rank.score for rank in together], atol=1e-5)
    labels = client.stream("tei.v1.Predict/PredictStream", [{"inputs": text} for text in TEXTS], of(PAIRS))
    assert [one.predictions[0].label for one in labels] == ["LABEL_0"] * len(TEXTS)


def test_a_response_has_its_timings(embedder: tuple[Reflected, str], reranker: tuple[Reflected, str]) -> None:
    for client, method, model, fields in (
        (embedder[0], "tei.v1.Embed/Embed", ENCODER, {"inputs": TEXTS[0]}),
        (reranker[0], "tei.v1.Rerank/Rerank", PAIRS, {"query": QUERY, "texts": TEXTS}),
    ):
        answer, headers = client.call_with_headers(method, of(model), **fields)
        assert headers["x-compute-type"] == "cpu"
        assert int(headers["x-compute-tokens"]) == answer.metadata.compute_tokens > 0
        assert int(headers["x-compute-characters"]) == answer.metadata.compute_chars > 0
        parts = ("tokenization", "queue", "inference")
        assert sum(int(headers[f"x-{part}-time"]) for part in parts) <= int(headers["x-total-time"])
        took = answer.metadata
        assert 0 < took.inference_time_ns < took.total_time_ns
        assert 0 < took.tokenization_time_ns < took.total_time_ns


def test_info_returns_model_and_limits(embedder: tuple[Reflected, str], reranker: tuple[Reflected, str]) -> None:
    info = embedder[0].call("tei.v1.Info/Info", of(ENCODER))
    assert (info.model_type, info.max_input_length, info.max_client_batch_size) == (0, 64, 8)
    assert info.model_dtype == "float32"
    types = {model: reranker[0].call("tei.v1.Info/Info", of(model)).model_type for model in (PAIRS, PAIRS_3, ENCODER)}
    assert types == {PAIRS: 2, PAIRS_3: 1, ENCODER: 2}


def test_long_texts_are_refused_unless_truncation_is_wanted(embedder: tuple[Reflected, str]) -> None:
    client, address = embedder
    code, message = refused(client.call, "tei.v1.Embed/Embed", of(ENCODER), inputs=LONG)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("inputs: expected at most 64 tokens")
    for direction, native in ((0, 1), (1, 2)):
        cut = client.call(
            "tei.v1.Embed/Embed", of(ENCODER), inputs=LONG + "end", truncate=True, truncation_direction=direction
        )
        expected = native_embed(address, LONG + "end", ENCODER, "DENSE", truncation=native)
        assert list(cut.embeddings) == floats(expected.dense.data)


def test_tokens_have_byte_positions(embedder: tuple[Reflected, str]) -> None:
    client, _ = embedder
    text = "open ünder file"
    first, *inner, last = client.call(
        "tei.v1.Tokenize/Tokenize", of(ENCODER), inputs=text, add_special_tokens=True
    ).tokens
    assert (first.text, first.special, first.HasField("start")) == ("[CLS]", True, False)
    assert (last.text, last.special, last.HasField("stop")) == ("[SEP]", True, False)
    assert [text.encode()[token.start : token.stop].decode() for token in inner] == [token.text for token in inner]
    ids = [token.id for token in (first, *inner, last)]
    whole = client.call("tei.v1.Tokenize/Decode", of(ENCODER), ids=ids).text
    assert whole.startswith("[CLS] open")
    assert not client.call("tei.v1.Tokenize/Decode", of(ENCODER), ids=ids, skip_special_tokens=True).text.count("[")


@pytest.mark.parametrize(
    ("method", "model", "fields", "message"),
    [
        ("Embed/Embed", ENCODER, {}, "inputs: expected some text"),
        ("Embed/Embed", ENCODER, {"inputs": "x" * 4097}, "inputs: expected at most 4,096 bytes"),
        ("Embed/Embed", ENCODER, {"inputs": "x", "dimensions": 12}, "dimensions: expected one of 32"),
        ("Embed/Embed", ENCODER, {"inputs": "x", "dimensions": 0}, "dimensions: expected one of 32"),
        ("Embed/Embed", ENCODER, {"inputs": "x", "normalize": False}, "normalize: expected true or none"),
        ("Embed/Embed", ENCODER, {"inputs": "x", "prompt_name": "poem"}, "prompt_name: expected one of query"),
        ("Embed/Embed", ENCODER, {"inputs": "x", "truncation_direction": 7}, "truncation_direction: expected RIGHT"),
        ("Embed/Embed", "nobody", {"inputs": "x"}, "no model 'nobody' here"),
        ("Embed/Embed", "", {"inputs": "x"}, "sluice-model: expected one of splade-tiny, tiny"),
        ("Embed/EmbedSparse", ENCODER, {"inputs": "x"}, "tiny returns dense, multi_vector, not sparse"),
        ("Embed/Embed", SPARSE, {"inputs": "x"}, "splade-tiny returns sparse, not dense"),
        ("Tokenize/Tokenize", ENCODER, {}, "inputs: expected some text"),
        ("Tokenize/Decode", ENCODER, {"ids": [1, 99_999_999]}, "ids[1]: expected ids of 0 to"),
        ("Rerank/Rerank", PAIRS, {"query": "x"}, "texts: expected 1 to 8 texts, got 0"),
        ("Rerank/Rerank", PAIRS, {"query": "x", "texts": ["x"] * 2049}, "texts: expected 1 to 8 texts, got 2,049"),
        ("Rerank/Rerank", PAIRS, {"query": QUERY, "texts": ["x", LONG]}, "texts[1]: expected at most 128 tokens"),
        ("Predict/PredictPair", PAIRS, {"inputs": ["a", "b", "c"]}, "inputs: expected 1 to 2 texts, got 3"),
        ("Predict/Predict", ENCODER, {"inputs": "a"}, "tiny scores by late interaction"),
    ],
)
def test_invalid_input_is_rejected_and_later_calls_succeed(
    embedder: tuple[Reflected, str],
    reranker: tuple[Reflected, str],
    method: str,
    model: str,
    fields: dict[str, Any],
    message: str,
) -> None:
    client = (reranker if method.startswith(("Rerank", "Predict")) else embedder)[0]
    code, said = refused(client.call, f"tei.v1.{method}", of(model), **fields)
    assert said.startswith(message)
    expected = {"no model": grpc.StatusCode.NOT_FOUND}.get(message[:8], grpc.StatusCode.INVALID_ARGUMENT)
    if "not " in message or "late" in message:
        expected = grpc.StatusCode.FAILED_PRECONDITION
    assert code is expected
    assert client.call("tei.v1.Info/Info", of(ENCODER)).max_input_length == 64


def test_an_invalid_message_ends_a_stream_after_the_earlier_responses(embedder: tuple[Reflected, str]) -> None:
    client, _ = embedder
    messages = [{"inputs": "fine"}, {"inputs": ""}, {"inputs": "never"}]
    code, message = refused(client.stream, "tei.v1.Embed/EmbedStream", messages, of(ENCODER))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("inputs")
    assert client.stream("tei.v1.Embed/EmbedStream", [], of(ENCODER)) == []
