"""KServe v2 on both model servers, tested with NVIDIA's tritonclient and with invalid requests."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.kserve.v2 import inference_service_pb2 as pb
from sluice.kserve.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from sluice.reranking.v1 import reranking_service_pb2 as reranking_pb
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub

from tests.support.processes import ROOT, running
from tests.support.require import require

TEXTS = ["how do I open a file", "sort", "what is a generator expression good for"]
QUERY = "how do I open a file"
ENCODER, SPARSE = "tiny", "splade-tiny"
PAIRS, PAIRS_3 = "tiny-pairs", "tiny-pairs-3"


@pytest.fixture(scope="module")
def embedder(tiny_bi_encoder: Path, tiny_sparse: Path) -> Iterator[str]:
    with embedder_of(tiny_bi_encoder, tiny_sparse) as address:
        yield address


@contextmanager
def embedder_of(tiny_bi_encoder: Path, tiny_sparse: Path) -> Iterator[str]:
    flags = ["--bundles", str(tiny_bi_encoder), "--bundles", str(tiny_sparse), "--max-texts", "2048"]
    with running("services.embedding", *flags) as one:
        yield one.address


@pytest.fixture
def unused_embedder(tiny_bi_encoder: Path, tiny_sparse: Path) -> Iterator[str]:
    """A server that has counted nothing yet."""
    with embedder_of(tiny_bi_encoder, tiny_sparse) as address:
        yield address


@pytest.fixture(scope="module")
def reranker(tiny_bi_encoder: Path, tiny_cross_encoder: Path, tiny_cross_encoder_3_labels: Path) -> Iterator[str]:
    bundles = [tiny_bi_encoder, tiny_cross_encoder, tiny_cross_encoder_3_labels]
    with running("services.reranking", *(part for one in bundles for part in ("--bundles", str(one)))) as one:
        yield one.address


@pytest.fixture
def channel(embedder: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(embedder) as channel:
        yield channel


def judged(address: str, task: str, model: str) -> dict[str, Any]:
    """What tritonclient saw."""
    command = [sys.executable, "-m", "tests.support.triton", address, task, model]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    seen: dict[str, Any] = json.loads(ran.stdout)
    return seen


def native(address: str, texts: list[str], model: str, *kinds: int, **fields: Any) -> embedding_pb.EmbedResponse:
    with grpc.insecure_channel(address) as channel:
        request = embedding_pb.EmbedRequest(texts=texts, model=model, representations=kinds, **fields)  # type: ignore[arg-type]
        return EmbeddingServiceStub(channel).Embed(request, timeout=60)


def native_scores(address: str, model: str, query: str, **fields: Any) -> list[reranking_pb.ScoredDocument]:
    with grpc.insecure_channel(address) as channel:
        order = reranking_pb.ORDER_REQUEST
        request = reranking_pb.RerankRequest(query=query, documents=TEXTS, model=model, order=order, **fields)
        return list(RerankingServiceStub(channel).Rerank(request, timeout=60).results)


def matrix(tensor: Any) -> NDArray[Any]:
    return np.frombuffer(tensor.data, dtype="<f2" if tensor.data_type == 2 else "<f4").reshape(tensor.shape)


def test_tritonclient_gets_the_vectors_of_the_native_api(unused_embedder: str) -> None:
    embedder = unused_embedder
    both = (embedding_pb.REPRESENTATION_DENSE, embedding_pb.REPRESENTATION_MULTI_VECTOR)
    expected = native(embedder, TEXTS, ENCODER, *both)
    half = native(embedder, TEXTS, ENCODER, embedding_pb.REPRESENTATION_DENSE, data_type=2)
    seen = judged(embedder, "embed", ENCODER)
    assert seen["live"]
    assert seen["ready"] == [True, True, False]
    assert seen["server"] == "sluice"
    assert seen["unknown"] == "StatusCode.NOT_FOUND"
    assert seen["inputs"]["text"] == ["BYTES", [-1, 1]]
    assert seen["outputs"]["dense"] == ["FP32", [-1, 32]]
    assert seen["config"] == [ENCODER, "onnxruntime", 2048, [11, 11, 8]]
    assert [ENCODER, "READY"] in seen["index"]

    assert seen["statistics"] == [3 * len(TEXTS) + 2 + 2, seen["statistics"][1], 6]
    assert seen["statistics"][1] > 0
    assert seen["failed"] == 1
    check_vectors(seen, expected, matrix(half.dense))


def check_vectors(seen: dict[str, Any], expected: embedding_pb.EmbedResponse, half: NDArray[Any]) -> None:
    assert set(seen["text"]) == {"dense", "multi_vector", "multi_vector_counts"}
    assert np.array_equal(seen["text"]["dense"]["values"], matrix(expected.dense))
    counts = np.array(seen["text"]["multi_vector_counts"]["values"], dtype=int)[:, 0]
    assert counts.tolist() == list(expected.multi_vector.token_counts)
    padded = np.array(seen["text"]["multi_vector"]["values"])
    rows = np.concatenate([row[:count] for row, count in zip(padded, counts, strict=True)])
    assert np.array_equal(rows, matrix(expected.multi_vector.tokens))
    assert not padded[1][counts[1] :].any()
    assert seen["half"]["dense"]["datatype"] == "FP16"
    assert np.array_equal(seen["half"]["dense"]["values"], half)
    np.testing.assert_allclose(seen["bulk"]["dense"]["values"], matrix(expected.dense), atol=1e-6)

    first, error, last = seen["stream"]
    assert [first[0], last[0]] == ["0", "2"]
    np.testing.assert_allclose(first[1]["dense"]["values"][0], matrix(expected.dense)[0], atol=1e-6)
    assert "expected some text" in error


@pytest.mark.parametrize("model", [PAIRS, PAIRS_3, ENCODER])
def test_tritonclient_gets_the_scores_of_the_native_api(reranker: str, model: str) -> None:
    expected = native_scores(reranker, model, QUERY)
    raw = native_scores(reranker, model, QUERY, raw_scores=True)
    sort = native_scores(reranker, model, "sort")
    seen = judged(reranker, "rerank", model)
    assert seen["inputs"] == {"query": ["BYTES", [-1, 1]], "passage": ["BYTES", [-1, 1]]}
    assert [value for [value] in seen["one"]["score"]["values"]] == [one.score for one in expected]
    assert [value for [value] in seen["raw"]["score"]["values"]] == [one.score for one in raw]
    mixed = [expected[0].score, sort[1].score, expected[2].score]
    np.testing.assert_allclose([value for [value] in seen["pairs"]["score"]["values"]], mixed, atol=1e-5)
    if model == PAIRS_3:
        assert seen["one"]["label_scores"]["values"] == [list(one.label_scores) for one in expected]


def perf_analyzer() -> tuple[str, dict[str, str]]:
    """Return the path of NVIDIA's load generator and its environment, or skip the test; in CI, fail."""
    folder = ROOT / ".venv" / "perf-analyzer"
    libraries = {path.parent for name in ("libb64.so.0d", "libcudart.so.12") for path in folder.rglob(name)}
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    program = folder / "bin" / "perf_analyzer"
    is_installed = program.exists() and len(libraries) == 2
    require(is_installed, "perf_analyzer is not installed: run `make test` on Debian, x86-64")
    return str(program), environment


@pytest.mark.parametrize("flags", [(), ("--streaming",)], ids=["unary", "stream"])
def test_perf_analyzer_drives_a_server(embedder: str, tmp_path: Path, flags: tuple[str, ...]) -> None:
    program, environment = perf_analyzer()
    texts = [{"text": {"content": [f"text number {number}"], "shape": [1]}} for number in range(50)]
    (tmp_path / "texts.json").write_text(json.dumps({"data": texts}))
    command = [program, "-m", ENCODER, "-u", embedder, "-i", "grpc", "--input-data", "texts.json", *flags]
    # Three windows of 20 answers, however much they differ: it is asked to run, not to measure.
    command += ["--measurement-mode", "count_windows", "--measurement-request-count", "20", "-r", "3", "-s", "9999"]
    ran = subprocess.run(
        [*command, "--concurrency-range", "2", "-f", "out.csv"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [row] = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert float(row["Inferences/Second"]) > 0
    assert int(row["Server Compute Input"]) >= 0
    assert "Successful request count" in ran.stdout


def bytes_of(*values: str | bytes) -> bytes:
    """Raw contents of BYTES."""
    parts = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def request(*inputs: dict[str, Any], **fields: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        **({"model_name": ENCODER, "inputs": [pb.ModelInferRequest.InferInputTensor(**one) for one in inputs]} | fields)
    )


def text(*values: str, **fields: Any) -> dict[str, Any]:
    contents = pb.InferTensorContents(bytes_contents=[value.encode() for value in values])
    return {"name": "text", "datatype": "BYTES", "shape": [len(values), 1], "contents": contents} | fields


def ids(*rows: list[int], name: str = "input_ids", **fields: Any) -> dict[str, Any]:
    contents = pb.InferTensorContents(int64_contents=[number for row in rows for number in row])
    return {"name": name, "datatype": "INT64", "shape": [len(rows), len(rows[0])], "contents": contents} | fields


def parameter(**value: Any) -> pb.InferParameter:
    return pb.InferParameter(**value)


def output(response: pb.ModelInferResponse, name: str) -> NDArray[Any]:
    position = [one.name for one in response.outputs].index(name)
    dtype = {"FP32": "<f4", "FP16": "<f2", "INT32": "<i4"}[response.outputs[position].datatype]
    raw = np.frombuffer(response.raw_output_contents[position], dtype=dtype)
    return raw.reshape(response.outputs[position].shape)


def test_ids_texts_raw_and_typed_contents_give_the_same_bits(embedder: str, channel: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    tokenized = EmbeddingServiceStub(channel).Tokenize(
        embedding_pb.TokenizeRequest(model=ENCODER, texts=TEXTS, add_special_tokens=True)
    )
    rows = [[token.id for token in one.tokens] for one in tokenized.texts]
    longest = max(map(len, rows))
    padded = [row + [0] * (longest - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    raw = {"name": "text", "datatype": "BYTES", "shape": [3, 1]}
    raw_ids = [np.array(one, dtype="<i8").tobytes() for one in (padded, mask)]
    bare = [one | {"contents": None} for one in (ids(*padded), ids(*mask, name="attention_mask"))]
    answers = [
        stub.ModelInfer(one, timeout=60)
        for one in (
            request(text(*TEXTS)),
            request(raw, raw_input_contents=[bytes_of(*TEXTS)]),
            request(ids(*padded), ids(*mask, name="attention_mask")),
            request(*bare, raw_input_contents=raw_ids),
        )
    ]
    expected = matrix(native(embedder, TEXTS, ENCODER, embedding_pb.REPRESENTATION_DENSE).dense)
    for answer in answers:
        np.testing.assert_allclose(output(answer, "dense"), expected, atol=1e-6)
        assert [one.name for one in answer.outputs] == ["dense", "multi_vector", "multi_vector_counts"]
        assert list(answer.raw_output_contents) == list(answers[0].raw_output_contents)


def test_sparse_vectors_are_padded_and_counted(embedder: str, channel: grpc.Channel) -> None:
    sparse = native(embedder, TEXTS, SPARSE, embedding_pb.REPRESENTATION_SPARSE).sparse
    answer = GRPCInferenceServiceStub(channel).ModelInfer(request(text(*TEXTS), model_name=SPARSE), timeout=60)
    counts = output(answer, "sparse_counts")[:, 0]
    assert counts.tolist() == list(sparse.term_counts)
    for name, tensor in (("sparse_indices", sparse.indices), ("sparse_weights", sparse.weights)):
        kept = [row[:count] for row, count in zip(output(answer, name), counts, strict=True)]
        assert np.concatenate(kept).tobytes() == tensor.data


LONG = "open the file and sort the list " * 64


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (request(), "inputs: expected text, or input_ids"),
        (request(text("a"), ids([1, 2])), "inputs: expected text, or input_ids"),
        (request(text("a"), text("b")), "inputs[1].name: expected one of text, input_ids, attention_mask, each once"),
        (request(text("a", name="txt")), "inputs[0].name: expected one of text"),
        (request(text("a", datatype="COMPLEX")), "inputs[0].datatype: expected BYTES for text, got 'COMPLEX'"),
        (request(ids([1, 2], datatype="INT32")), "inputs[0].datatype: expected INT64 for input_ids"),
        (request(text("a", shape=[1])), "inputs[0].shape: expected [-1, 1], got [1]"),
        (request(text("a", shape=[-1, 1])), "inputs[0].shape: expected [-1, 1]"),
        (request(text("a", shape=[2**60, 1])), "inputs[0].shape: expected [-1, 1]"),
        (request(text("a", "b", shape=[3, 1])), "inputs[0]: expected 3 elements of bytes_contents"),
        (request(text("a", shape=[0, 1], contents=pb.InferTensorContents())), "inputs[0].shape[0]: expected 1 to"),
        (request(text(*["a"] * 2049)), "inputs[0].shape[0]: expected 1 to 2,048 rows, got 2,049"),
        (request(text("a", contents=pb.InferTensorContents(fp32_contents=[1]))), "inputs[0]: expected bytes_contents"),
        (request(text("a"), raw_input_contents=[bytes_of("a")]), "inputs[0].contents: expected none together"),
        (request(text("a", contents=None), raw_input_contents=[b"", b""]), "raw_input_contents: expected one for each"),
        (request(text("a", contents=None), raw_input_contents=[b"\x05\0\0\0ab"]), "inputs[0]: expected element 0"),
        (request(text("a", contents=None), raw_input_contents=[b"\xff\xff\xff\xffab"]), "inputs[0]: expected element"),
        (request(text("a", contents=None), raw_input_contents=[b"\x01"]), "inputs[0]: expected 1 elements"),
        (request(text("a", contents=None), raw_input_contents=[bytes_of("a", "b")]), "inputs[0]: expected 1 elements"),
        (request(ids([1, 2], contents=None), raw_input_contents=[b"\0" * 15]), "inputs[0]: expected 16 raw bytes"),
        (request(text("a", contents=None), raw_input_contents=[bytes_of(b"\xff")]), "inputs[0][0]: expected UTF-8"),
        (request(text("a", " ")), "inputs[0][1]: expected some text"),
        (request(ids([1, 99_999_999])), "inputs[0][0][1]: expected ids of 0 to"),
        (request(ids([1, -1])), "inputs[0][0][1]: expected ids of 0 to"),
        (request(ids([1] * 65)), "inputs[0]: expected rows of 1 to 64 tokens, got 65"),
        (request(ids([1, 2]), ids([0, 1], name="attention_mask")), "inputs[1]: expected rows of ones and then"),
        (request(ids([1, 2]), ids([1], name="attention_mask")), "inputs[1].shape: expected [1, 2] as input_ids"),
        (request(ids([1, 2], name="attention_mask")), "inputs: expected text, or input_ids"),
        (request(text("a"), outputs=[{"name": "density"}]), "outputs[0].name: expected one of dense"),
        (request(text("a"), parameters={"dimensions": parameter(int64_param=7)}), "dimensions: expected one of 32"),
        (request(text("a"), parameters={"dimensions": parameter(string_param="7")}), "parameters[dimensions]"),
        (request(text("a"), parameters={"input_type": parameter(string_param="poem")}), "parameters[input_type]"),
        (request(text("a"), parameters={"truncate": parameter(string_param="MIDDLE")}), "parameters[truncate]"),
        (request(text("a"), parameters={"timeuot": parameter(int64_param=1)}), "parameters: expected some of"),
        (request(text("a"), parameters={"timeout": parameter(int64_param=-1)}), "parameters[timeout]: expected 0"),
        (
            request(text("a", LONG), parameters={"truncate": parameter(string_param="NONE")}),
            "inputs[0][1]: expected at",
        ),
        (request(text("a"), id="x" * 1025), "id: expected at most 1,024 characters"),
    ],
)
def test_invalid_input_is_rejected_by_field_and_later_calls_succeed(
    channel: grpc.Channel, bad: pb.ModelInferRequest, message: str
) -> None:
    stub = GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(bad, timeout=60)
    error: Any = caught.value
    assert error.details().startswith(message)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert output(stub.ModelInfer(request(text("still well")), timeout=60), "dense").any()


def test_unknown_models_and_versions_are_not_found(channel: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    for bad in (request(text("a"), model_name="nobody"), request(text("a"), model_version="9")):
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(bad, timeout=60)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_timeout_in_microseconds_is_a_deadline(channel: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    late = request(text("never computed before"), parameters={"timeout": parameter(int64_param=1)})
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(late, timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
