"""The embedding service over gRPC with real models."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY
from sluice.common.v1 import model_pb2, tensor_pb2
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.errors import InvalidRequest, NotFound, PreconditionFailed, QuotaExceeded, SluiceError, from_rpc_error

from services.rpc.tensor import to_tensor
from tests.support.bundles import edited
from tests.support.servers import embedding_server

if TYPE_CHECKING:
    from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceAsyncStub

TEXTS = ["a short one", "how do I open a file and read it", "sort", "what is a generator expression good for"]


@asynccontextmanager
async def stub_of(*bundles: Path, **settings: Any) -> AsyncIterator["EmbeddingServiceAsyncStub"]:
    """A stub for a server of these bundles."""
    async with embedding_server(*bundles, **settings) as channel:
        yield EmbeddingServiceStub(channel)


def dense(response: pb.EmbedResponse) -> NDArray[np.float32]:
    return np.frombuffer(response.dense.data, dtype="<f4").reshape(response.dense.shape)


async def refusal(call: Awaitable[object]) -> SluiceError:
    """The error that a call must end with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_texts_come_back_as_unit_vectors_in_their_order(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder) as stub:
        together = dense(await stub.Embed(pb.EmbedRequest(texts=TEXTS)))
        alone = [dense(await stub.Embed(pb.EmbedRequest(texts=[text])))[0] for text in TEXTS]
        assert together.shape == (len(TEXTS), alone[0].size)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(together, alone, atol=1e-5)


async def test_one_pass_gives_dense_and_token_vectors_without_special_tokens(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder) as stub:
        kinds = [pb.REPRESENTATION_DENSE, pb.REPRESENTATION_MULTI_VECTOR]
        response = await stub.Embed(pb.EmbedRequest(texts=TEXTS, representations=kinds))
        counts = list(response.multi_vector.token_counts)
        assert counts == [usage.token_count - 2 for usage in response.usage]
        assert response.multi_vector.tokens.shape[0] == sum(counts)
        assert dense(response).shape[0] == len(TEXTS)


async def test_a_call_larger_than_a_batch_is_split_and_its_order_kept(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder, max_batch_tokens=64) as stub:
        texts = [f"{'word ' * (1 + i % 13)} number {i}" for i in range(100)]
        together = dense(await stub.Embed(pb.EmbedRequest(texts=texts, lane=model_pb2.LANE_BULK)))
        assert len(np.unique(together.round(5), axis=0)) == len(texts)
        for position in (0, 41, 99):
            alone = dense(await stub.Embed(pb.EmbedRequest(texts=[texts[position]])))[0]
            np.testing.assert_allclose(together[position], alone, atol=1e-5)


async def test_truncation_is_chosen_by_the_caller_and_reported(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder) as stub:
        limit = (await stub.ListModels(pb.ListModelsRequest())).models[0].max_token_count
        long = "open the file " * limit
        at_end = await stub.Embed(pb.EmbedRequest(texts=["first " + long], truncation=model_pb2.TRUNCATION_END))
        assert at_end.usage[0].token_count == limit
        assert at_end.usage[0].dropped_token_count > 0
        at_start = await stub.Embed(pb.EmbedRequest(texts=["first " + long], truncation=model_pb2.TRUNCATION_START))
        assert not np.allclose(dense(at_start), dense(at_end))
        request = pb.EmbedRequest(texts=["fits", long], truncation=model_pb2.TRUNCATION_REFUSE)
        error = await refusal(stub.Embed(request))
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == ["texts[1]"]
        assert error.metadata["expected_max"] == str(limit)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.EmbedRequest(), ["texts"]),
        (pb.EmbedRequest(texts=["x"] * 9), ["texts"]),
        (pb.EmbedRequest(texts=["good", "", " \n\t"]), ["texts[1]", "texts[2]"]),
        (pb.EmbedRequest(texts=["é" * 51]), ["texts[0]"]),
        (pb.EmbedRequest(texts=["x"], representations=[pb.REPRESENTATION_SPARSE]), ["representations[0]"]),
        (pb.EmbedRequest(texts=["x"], representations=[cast("Any", 77)]), ["representations[0]"]),
        (pb.EmbedRequest(texts=["x"], lane=cast("Any", 9)), ["lane"]),
        (pb.EmbedRequest(texts=["x"], truncation=cast("Any", 9)), ["truncation"]),
        (pb.EmbedRequest(texts=[""], representations=[cast("Any", 77)]), ["texts[0]", "representations[0]"]),
    ],
)
async def test_bad_input_is_refused_by_field(
    tiny_bi_encoder: Path, request_: pb.EmbedRequest, fields: list[str]
) -> None:
    async with stub_of(tiny_bi_encoder, max_texts=8, max_text_bytes=100) as stub:
        error = await refusal(stub.Embed(request_))
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == fields
        assert "expected" in error.message
        assert dense(await stub.Embed(pb.EmbedRequest(texts=["still well"]))).any()


async def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder) as stub:
        known = (await stub.ListModels(pb.ListModelsRequest())).models[0].model.name
        error = await refusal(stub.Embed(pb.EmbedRequest(model="nobody", texts=["x"])))
        assert isinstance(error, NotFound)
        assert error.reason_name == "UNKNOWN_MODEL"
        assert known in error.message


async def test_a_message_over_the_limit_is_refused_and_the_server_goes_on(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder, max_message_bytes=2**16) as stub:
        error = await refusal(stub.Embed(pb.EmbedRequest(texts=["x" * 2**16] * 2)))
        assert isinstance(error, QuotaExceeded)
        assert dense(await stub.Embed(pb.EmbedRequest(texts=["still well"]))).any()


async def test_texts_whose_vectors_exceed_a_message_are_refused_before_they_are_computed(tiny_bi_encoder: Path) -> None:
    def computed() -> float:
        labels = {"model": "tiny", "lane": "bulk", "kind": "used"}
        return REGISTRY.get_sample_value("sluice_tokens_total", labels) or 0.0

    async with stub_of(tiny_bi_encoder, max_message_bytes=2**16) as stub:
        kinds = [pb.REPRESENTATION_DENSE, pb.REPRESENTATION_MULTI_VECTOR]
        windows = model_pb2.Windows(overlap_token_count=31)
        long = pb.EmbedRequest(texts=["a b c " * 400], representations=kinds, windows=windows, lane=model_pb2.LANE_BULK)
        before = computed()
        error = await refusal(stub.Embed(long))
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == ["texts"]
        assert computed() == before
        long.texts[0] = "a b c " * 160  # 480 tokens of 32 dimensions: just below 65,536 bytes
        response = await stub.Embed(long)
        assert len(response.multi_vector.tokens.data) + len(response.dense.data) > 2**16 - 2**13
        assert computed() > before


async def test_equal_texts_in_one_call_get_equal_vectors(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder) as stub:
        vectors = dense(await stub.Embed(pb.EmbedRequest(texts=["same", "other", "same"])))
        assert np.array_equal(vectors[0], vectors[2])
        assert not np.array_equal(vectors[0], vectors[1])


async def test_a_caller_that_leaves_does_not_disturb_the_others(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder, cache_entries=0) as stub:
        texts = [f"{'word ' * 20} {i}" for i in range(64)]
        leaving = [stub.Embed(pb.EmbedRequest(texts=texts)) for _ in range(4)]
        staying = stub.Embed(pb.EmbedRequest(texts=texts))
        await asyncio.sleep(0)
        for call in leaving:
            call.cancel()
        assert dense(await staying).shape[0] == len(texts)


def test_the_tensor_of_an_array_is_its_bytes() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = to_tensor(array)
    assert list(tensor.shape) == [2, 3]
    assert tensor.data == array.tobytes()


async def test_vectors_have_the_requested_type_and_length(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    async with stub_of(edited(tiny_bi_encoder, tmp_path / "copy", matryoshka_dimensions=[8, 16])) as stub:
        whole = dense(await stub.Embed(pb.EmbedRequest(texts=TEXTS)))
        short = dense(await stub.Embed(pb.EmbedRequest(texts=TEXTS, dimensions=16)))
        expected = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
        np.testing.assert_allclose(short, expected, atol=1e-6)
        half = (await stub.Embed(pb.EmbedRequest(texts=TEXTS, data_type=tensor_pb2.DATA_TYPE_FLOAT16))).dense
        np.testing.assert_array_equal(np.frombuffer(half.data, "<f2").reshape(half.shape), whole.astype(np.float16))
        int8 = (await stub.Embed(pb.EmbedRequest(texts=TEXTS, data_type=tensor_pb2.DATA_TYPE_INT8))).dense
        restored = np.frombuffer(int8.data, "i1").reshape(int8.shape) * np.array(int8.row_scales)[:, None]
        np.testing.assert_allclose(restored, whole, atol=0.005)
        bits = (await stub.Embed(pb.EmbedRequest(texts=TEXTS, data_type=tensor_pb2.DATA_TYPE_BITS))).dense
        packed = np.frombuffer(bits.data, np.uint8).reshape(len(TEXTS), -1)
        np.testing.assert_array_equal(np.unpackbits(packed, axis=1, count=whole.shape[1]), whole > 0)
        assert list(bits.shape) == list(whole.shape)
        error = await refusal(stub.Embed(pb.EmbedRequest(texts=TEXTS, dimensions=12)))
        assert "8, 16, 32" in error.message
        both = [pb.REPRESENTATION_DENSE, pb.REPRESENTATION_MULTI_VECTOR]
        bad = pb.EmbedRequest(texts=TEXTS, representations=both, data_type=tensor_pb2.DATA_TYPE_BITS)
        assert "data_type" in (await refusal(stub.Embed(bad))).message


async def test_windows_read_a_whole_long_text(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder) as stub:
        limit = (await stub.ListModels(pb.ListModelsRequest())).models[0].max_token_count
        texts = ["short", "open the file and sort the list " * limit]
        kinds = [pb.REPRESENTATION_DENSE, pb.REPRESENTATION_MULTI_VECTOR]
        windows = model_pb2.Windows(overlap_token_count=5, aggregation=model_pb2.WINDOW_AGGREGATION_MEAN)
        response = await stub.Embed(pb.EmbedRequest(texts=texts, windows=windows, representations=kinds))
        cut = await stub.Embed(pb.EmbedRequest(texts=texts))
        assert response.usage[0] == cut.usage[0]
        assert response.usage[1].dropped_token_count == 0
        assert response.usage[1].window_count > 1
        tokens = cut.usage[1].token_count - 2 + cut.usage[1].dropped_token_count
        assert response.multi_vector.token_counts[1] == tokens
        np.testing.assert_allclose(np.linalg.norm(dense(response), axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(dense(response)[0], dense(cut)[0], atol=1e-6)
        far = pb.EmbedRequest(texts=texts, windows=model_pb2.Windows(overlap_token_count=limit))
        error = await refusal(stub.Embed(far))
        assert "windows.overlap_token_count" in error.message
        both = pb.EmbedRequest(texts=texts, windows=windows, truncation=model_pb2.TRUNCATION_END)
        assert "truncation" in (await refusal(stub.Embed(both))).message


async def test_models_are_loaded_and_unloaded_while_the_server_runs(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for version in ("1", "2"):
        edited(tiny_bi_encoder, repository / "other" / version, name="other", version=version)
    damaged = edited(tiny_bi_encoder, repository / "damaged" / "1", name="damaged")
    (damaged / "tokenizer.json").write_text("{}")
    async with stub_of(tiny_bi_encoder, repository=repository) as stub:
        request = pb.EmbedRequest(model="other", texts=TEXTS)
        assert isinstance(await refusal(stub.Embed(request)), NotFound)
        first = (await stub.LoadModel(pb.LoadModelRequest(name="other", version="1"))).model
        assert (await stub.Embed(request)).model == first
        second = (await stub.LoadModel(pb.LoadModelRequest(name="other", version="2"))).model
        assert (await stub.Embed(request)).model == second != first
        await stub.UnloadModel(pb.UnloadModelRequest(name="other"))
        assert isinstance(await refusal(stub.Embed(request)), NotFound)
        assert len((await stub.ListModels(pb.ListModelsRequest())).models) == 1
        assert isinstance(await refusal(stub.UnloadModel(pb.UnloadModelRequest(name="other"))), NotFound)
        absent = await refusal(stub.LoadModel(pb.LoadModelRequest(name="other", version="9")))
        assert isinstance(absent, NotFound)
        outside = await refusal(stub.LoadModel(pb.LoadModelRequest(name="..", version="other/1")))
        assert isinstance(outside, InvalidRequest)
        broken = await refusal(stub.LoadModel(pb.LoadModelRequest(name="damaged", version="1")))
        assert isinstance(broken, PreconditionFailed)
        assert "tokenizer.json" in broken.message


async def test_a_server_without_repository_loads_nothing(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder) as stub:
        error = await refusal(stub.LoadModel(pb.LoadModelRequest(name="x", version="1")))
        assert isinstance(error, PreconditionFailed)


async def test_tokens_have_positions_and_are_joined_again(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder) as stub:
        text = "open ünder 😀 file"
        ask = pb.TokenizeRequest(texts=[text, "sort"], add_special_tokens=True)
        answer = await stub.Tokenize(ask)
        first, *inner, last = answer.texts[0].tokens
        assert [(first.text, first.special), (last.text, last.special)] == [("[CLS]", True), ("[SEP]", True)]
        for token in inner:
            assert token.text == text[token.char_start : token.char_end]
            assert token.text.encode() == text.encode()[token.byte_start : token.byte_end]
        assert "".join(token.text for token in inner) == text.replace(" ", "")
        embedded = await stub.Embed(pb.EmbedRequest(texts=[text, "sort"]))
        assert [len(one.tokens) for one in answer.texts] == [usage.token_count for usage in embedded.usage]
        bare = await stub.Tokenize(pb.TokenizeRequest(texts=[text]))
        assert list(bare.texts[0].tokens) == inner
        sequences = [pb.TokenIds(ids=[token.id for token in one.tokens]) for one in answer.texts]
        whole = await stub.Decode(pb.DecodeRequest(sequences=sequences))
        assert whole.texts[1] == "[CLS] sort [SEP]"
        plain = await stub.Decode(pb.DecodeRequest(sequences=sequences, skip_special_tokens=True))
        assert plain.texts[1] == "sort"


@pytest.mark.parametrize(
    ("bad", "fields"),
    [
        (pb.TokenizeRequest(), ["texts"]),
        (pb.TokenizeRequest(texts=["x"] * 9 + [" "]), ["texts"]),
        (pb.TokenizeRequest(texts=["x", " "]), ["texts[1]"]),
        (pb.TokenizeRequest(texts=["x"], role=cast("Any", 7)), ["role"]),
        (pb.TokenizeRequest(texts=["x" * 60_000] * 5), ["texts"]),
        (pb.DecodeRequest(), ["sequences"]),
        (pb.DecodeRequest(sequences=[pb.TokenIds(ids=[1, 9_999_999])]), ["sequences[0].ids[1]"]),
        (pb.DecodeRequest(sequences=[pb.TokenIds(ids=[1] * 262_145)]), ["sequences"]),
    ],
)
async def test_bad_tokens_are_refused_by_field(
    tiny_bi_encoder: Path, bad: pb.TokenizeRequest | pb.DecodeRequest, fields: list[str]
) -> None:
    async with stub_of(tiny_bi_encoder, max_texts=8) as stub:
        call = stub.Tokenize(bad) if isinstance(bad, pb.TokenizeRequest) else stub.Decode(bad)
        error = await refusal(call)
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == fields
        assert (await stub.Tokenize(pb.TokenizeRequest(texts=["x"]))).texts
