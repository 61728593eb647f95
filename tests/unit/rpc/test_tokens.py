"""Tables and laws: the decisions about bearer tokens and their quotas."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluice.embedding.v1 import embedding_service_pb2  # noqa: F401 - registers its methods
from sluice.errors import PermissionDenied, Unauthenticated
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.search.v1 import search_service_pb2 as search_pb

from services.rpc.auth.authorizer import kind_of, methods_of
from services.rpc.auth.collection_names import collections_of, hide
from services.rpc.auth.quota import Bucket
from services.rpc.auth.tokens import Callers, Token, TokensError, check_allowed, check_collections, load

SECRET = "sluice_of-a-test"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


def token(**fields: Any) -> Token:
    return Token(**{"name": "page", "sha256": DIGEST, **fields})


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tokens.yaml"
    path.write_text(text)
    return path


def test_the_example_of_the_module_is_valid(tmp_path: Path) -> None:
    from services.rpc.auth import tokens

    assert tokens.__doc__
    lines = [line[4:] for line in tokens.__doc__.splitlines() if line.startswith("    ")]
    (read,) = load(written(tmp_path, "\n".join(lines)))
    assert read.name == "search-page"
    assert read.may == frozenset({"read"})
    assert read.rate("calls") == (50.0, 100.0)


def test_an_empty_file_has_no_tokens(tmp_path: Path) -> None:
    assert load(written(tmp_path, "")) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- name: [", "expected YAML"),
        ("name: page", "list"),
        (f"- {{name: page, sha256: {DIGEST}, colections: [a]}}", "colections"),
        (f"- {{name: 'a b', sha256: {DIGEST}}}", "name"),
        (f"- {{name: page, sha256: {DIGEST}, may: [fly]}}", "may"),
        (f"- {{name: page, sha256: {DIGEST}, calls_per_s: 0}}", "calls_per_s"),
        (f"- {{name: page, sha256: {DIGEST}, texts_burst: 5}}", "texts_per_s together with texts_burst"),
        (f"- {{name: page, sha256: {SECRET}}}", "sha256"),
        (f"- {{name: a, sha256: {DIGEST}}}\n- {{name: b, sha256: {DIGEST}}}", "a different sha256"),
        (f"- {{name: a, sha256: {DIGEST}}}\n- {{name: a, sha256: '{'0' * 64}'}}", "a different name"),
    ],
)
def test_an_invalid_file_is_reported_without_secrets(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TokensError, match=message) as caught:
        load(written(tmp_path, text))
    assert SECRET not in str(caught.value)
    assert DIGEST not in str(caught.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TokensError, match="No such file"):
        load(tmp_path / "none.yaml")


def test_the_hash_is_not_in_a_repr() -> None:
    assert DIGEST not in repr(token())
    assert DIGEST not in repr(Callers([token()]))


@pytest.mark.parametrize("authorization", [f"Bearer {SECRET}", f"bearer {SECRET}", f"Bearer {SECRET}".encode()])
def test_a_token_identifies_its_bearer(authorization: str | bytes) -> None:
    assert Callers([token(name="other", sha256="0" * 64), token()]).bearer(authorization).name == "page"


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", SECRET, f"Basic {SECRET}", f"Bearer {SECRET}x", f"Bearer {DIGEST}", "Bearer \xff"],
)
def test_an_unknown_token_is_rejected_without_repeating_it(authorization: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        Callers([token()]).bearer(authorization)
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("/sluice.search.v1.SearchService/Search", "read"),
        ("/sluice.search.v1.SearchService/ListPipelines", "read"),
        ("/sluice.search.v1.SearchService/Index", "write"),
        ("/sluice.search.v1.SearchService/Delete", "write"),
        ("/sluice.embedding.v1.EmbeddingService/Embed", "read"),
        ("/sluice.embedding.v1.EmbeddingService/LoadModel", "admin"),
        ("/sluice.retrieval.v1.RetrievalService/DropCollection", "write"),
        ("/sluice.retrieval.v1.RetrievalService/SetAlias", "write"),
        ("/sluice.retrieval.v1.RetrievalService/GetCollection", "read"),
        ("/nobody.Knows/This", "admin"),
    ],
)
def test_the_kind_of_a_method_is_what_its_proto_says(method: str, kind: str) -> None:
    assert kind_of(method) == kind


def test_a_token_has_only_its_own_permissions() -> None:
    check_allowed(token(may=["read", "write"]), "write", "/a.B/Index")
    with pytest.raises(PermissionDenied, match="may read; Index needs write"):
        check_allowed(token(), "write", "/a.B/Index")


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        (["*"], "docs", True),
        (["docs"], "docs", True),
        (["docs"], "docs2", False),
        (["docs"], "Docs", False),
        (["team-*"], "team-a", True),
        (["team-*", "docs"], "teams", False),
    ],
)
def test_collections_are_allowed_by_name_or_pattern(patterns: list[str], name: str, allowed: bool) -> None:
    assert token(collections=patterns).allows(name) is allowed
    if not allowed:
        with pytest.raises(PermissionDenied, match="may not use the collection"):
            check_collections(token(collections=patterns), ["docs" if name != "docs" else "x", name])


def test_every_collection_that_a_request_names_is_found() -> None:
    alias = retrieval_pb.Alias(alias="new", collection="old")
    assert set(collections_of(retrieval_pb.SetAliasRequest(alias=alias))) == {"new", "old"}
    assert collections_of(retrieval_pb.DropCollectionRequest(name="docs")) == ["docs"]
    assert collections_of(search_pb.SearchRequest(collection="docs", query="x")) == ["docs"]
    assert collections_of(search_pb.ListPipelinesRequest()) == []


def named(kind: Any, *names: str) -> list[Any]:
    return [kind(name=name) for name in names]


@pytest.mark.parametrize(
    ("response", "shown"),
    [
        (
            retrieval_pb.ListCollectionsResponse(collections=named(retrieval_pb.Collection, "public", "secret")),
            retrieval_pb.ListCollectionsResponse(collections=named(retrieval_pb.Collection, "public")),
        ),
        (
            retrieval_pb.ListAliasesResponse(
                aliases=[
                    retrieval_pb.Alias(alias=alias, collection=collection)
                    for alias in ("public", "secret")
                    for collection in ("public", "secret")
                ]
            ),
            retrieval_pb.ListAliasesResponse(aliases=[retrieval_pb.Alias(alias="public", collection="public")]),
        ),
        (
            retrieval_pb.ListSnapshotsResponse(
                snapshots=[
                    retrieval_pb.Snapshot(
                        name="secret-of-names-only",
                        collections=named(retrieval_pb.SnapshotCollection, "secret", "public", "secret"),
                    )
                ]
            ),
            retrieval_pb.ListSnapshotsResponse(
                snapshots=[
                    retrieval_pb.Snapshot(
                        name="secret-of-names-only", collections=named(retrieval_pb.SnapshotCollection, "public")
                    )
                ]
            ),
        ),
        (
            search_pb.ListPipelinesResponse(pipelines=named(search_pb.Pipeline, "secret")),
            search_pb.ListPipelinesResponse(pipelines=named(search_pb.Pipeline, "secret")),
        ),
    ],
    ids=lambda one: type(one).__name__,
)
def test_lists_show_the_collections_that_a_token_may_use(response: Any, shown: Any) -> None:
    hide(response, token(collections=["public"]).allows)
    assert response == shown


def test_unchanged_quotas_keep_their_usage_when_the_file_changes() -> None:
    callers = Callers([token(calls_per_s=1, calls_burst=1)])
    callers.charge(callers.tokens[0], "calls", 1, now=0.0)
    callers.replace([token(calls_per_s=1, calls_burst=1, collections=["docs"])])
    assert callers.wait_s(callers.tokens[0], "calls", 1, now=0.0) == 1.0
    callers.replace([token(calls_per_s=1, calls_burst=5)])
    assert callers.wait_s(callers.tokens[0], "calls", 1, now=0.0) == 0.0


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = Bucket.full(rate=2.0, burst=3.0, now=10.0)
    for _ in range(3):
        assert bucket.wait_s(1, 10.0) == 0
        bucket.take(1, 10.0)
    assert bucket.wait_s(1, 10.0) == 0.5
    assert bucket.wait_s(1, 10.5) == 0


def test_more_than_the_burst_passes_and_leaves_a_debt() -> None:
    bucket = Bucket.full(rate=1.0, burst=2.0, now=0.0)
    assert bucket.wait_s(10, 0.0) == 0
    bucket.take(10, 0.0)
    assert bucket.wait_s(1, 0.0) == 9.0


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), max_size=60),
    st.floats(0.1, 100),
    st.floats(1, 100),
)
def test_the_rate_holds_over_time(asked: list[tuple[float, int]], rate: float, burst: float) -> None:
    bucket, now, passed, last = Bucket.full(rate, burst, 0.0), 0.0, 0, 0
    for pause, units in asked:
        now += pause
        if not bucket.wait_s(units, now):
            bucket.take(units, now)
            passed, last = passed + units, units
    assert passed <= burst + rate * now + last + 1e-6


def test_methods_of_other_systems_are_reads_when_their_service_says_so() -> None:
    service = "sluice.search.v1.SearchService"
    assert f"/{service}/Search" in methods_of(service, but=("Index", "Delete"))
    assert not {f"/{service}/Index", f"/{service}/Delete"} & methods_of(service, but=("Index", "Delete"))
