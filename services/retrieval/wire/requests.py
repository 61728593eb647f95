"""Requests that read or delete documents, and responses of searches, from and to protos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sluice.common.v1.filter_pb2 import Filter as FilterMessage
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.domain.filters import Filter
from services.retrieval.domain.queries import Candidates
from services.retrieval.domain.schema import Schema
from services.retrieval.hybrid.execution import SearchResult
from services.retrieval.hybrid.fusion import FusedRanking
from services.retrieval.hybrid.grouping import GroupedRanking
from services.retrieval.hybrid.search_spec import SearchSpec
from services.retrieval.wire import fusion, grouping
from services.retrieval.wire.documents import DOCUMENTS_MAX, ID_BYTES_MAX, check_ids, check_no_nul, message
from services.retrieval.wire.filters import FilterReader
from services.retrieval.wire.queries import QueryReader
from services.rpc.validation import Violations, validating

_QUERIES_MAX: Final = 16
_PAGE_SIZE: Final = 100


def search(request: pb.RetrieveRequest, schema: Schema, *, max_depth: int) -> SearchSpec:
    """Return the search. Raises InvalidRequest, and PreconditionFailed for vectors of another model."""
    with validating() as violations:
        violations.limit("queries", len(request.queries), low=1, high=_QUERIES_MAX, what="queries")
        reader = QueryReader(schema, violations, max_depth=max_depth, is_exact=request.exact)
        queries = [reader.read(f"queries[{i}]", query) for i, query in enumerate(request.queries[:_QUERIES_MAX])]
        condition = _filter(request, schema, violations)
        with_documents = wants_documents(request.view, violations)
        fused = fusion.fusion(request, violations, max_depth=max_depth)
        grouped = grouping.grouping(request, schema, violations, max_depth=max_depth)
    for error in reader.mismatches:
        raise error
    return SearchSpec([query for query in queries if query is not None], condition, with_documents, fused, grouped)


def response(found: SearchResult) -> pb.RetrieveResponse:
    """Return the response of a search."""
    result = found.result
    return pb.RetrieveResponse(
        rankings=[_ranking(candidates) for candidates in found.found.candidates] if result is None else (),
        documents=[message(document) for document in found.documents],
        collection_version=found.found.version,
        fused=fusion.fused_message(result) if isinstance(result, FusedRanking) else None,
        grouped=grouping.groups_message(result) if isinstance(result, GroupedRanking) else None,
    )


def deletion(request: pb.DeleteDocumentsRequest, schema: Schema) -> Sequence[str] | Filter:
    """Return the ids or the filter of the documents to delete. Raises InvalidRequest."""
    with validating() as violations:
        condition = _filter(request, schema, violations)
        if request.document_ids and condition is not None:
            violations.add("filter", "expected ids or a filter, got both")
        if not request.document_ids and condition is None:
            violations.add("document_ids", "expected ids or a filter, got neither")
        violations.limit("document_ids", len(request.document_ids), low=0, high=DOCUMENTS_MAX, what="ids")
        check_ids("document_ids", request.document_ids, violations)
    return list(request.document_ids) if condition is None else condition


def ids(request: pb.GetDocumentsRequest) -> tuple[Sequence[str], bool]:
    """Return the ids to look up, and whether to return whole documents. Raises InvalidRequest."""
    with validating() as violations:
        violations.limit("document_ids", len(request.document_ids), low=1, high=DOCUMENTS_MAX, what="ids")
        check_ids("document_ids", request.document_ids, violations)
        with_documents = wants_documents(request.view, violations)
    return list(request.document_ids), with_documents


@dataclass(frozen=True)
class Page:
    """A page of `ListDocuments`: up to `size` documents with ids above `after`."""

    after: str
    size: int
    condition: Filter | None
    with_documents: bool


def page(request: pb.ListDocumentsRequest, schema: Schema) -> Page:
    """Return the page to list. Raises InvalidRequest."""
    with validating() as violations:
        condition = _filter(request, schema, violations)
        violations.count("page_size", request.page_size, low=0, high=DOCUMENTS_MAX, what="documents")
        violations.count("page_token", len(request.page_token.encode()), low=0, high=ID_BYTES_MAX, what="bytes")
        check_no_nul("page_token", request.page_token, violations)
        with_documents = wants_documents(request.view, violations)
    return Page(request.page_token, request.page_size or _PAGE_SIZE, condition, with_documents)


def count(request: pb.CountDocumentsRequest, schema: Schema) -> Filter | None:
    """Return the filter of the documents to count; None counts all. Raises InvalidRequest."""
    with validating() as violations:
        return _filter(request, schema, violations)


def wants_documents(view: pb.DocumentView.ValueType, violations: Violations) -> bool:
    """Return whether to return whole documents or only their ids."""
    if view not in pb.DocumentView.values():
        violations.add("view", f"expected FULL or ID, got number {view}")
    return view != pb.DOCUMENT_VIEW_ID


def _filter(
    request: pb.RetrieveRequest | pb.DeleteDocumentsRequest | pb.CountDocumentsRequest | pb.ListDocumentsRequest,
    schema: Schema,
    violations: Violations,
) -> Filter | None:
    given: FilterMessage = request.filter
    return FilterReader(schema, violations).read("filter", given) if request.HasField("filter") else None


def _ranking(candidates: Candidates) -> pb.Ranking:
    return pb.Ranking(document_ids=candidates.ids, scores=candidates.scores.tolist(), coverage=candidates.coverage)
