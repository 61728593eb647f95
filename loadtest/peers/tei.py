"""A server with text-embeddings-inference's gRPC API at an address: TEI or Sluice."""

from sluice.tei.v1 import tei_service_pb2 as pb

from loadtest.peers.work import Endpoint, Values, Work


def endpoint(address: str, work: Work) -> Endpoint:
    """Return the calls of the work in this API."""
    if work.task == "embed":
        embeds = [pb.EmbedRequest(inputs=text, truncate=True).SerializeToString() for text in work.plain]
        return Endpoint(address, "/tei.v1.Embed/Embed", embeds, _vector)
    reranks = [
        pb.RerankRequest(query=query, texts=texts, truncate=True).SerializeToString() for query, texts in work.plain
    ]
    return Endpoint(address, "/tei.v1.Rerank/Rerank", reranks, _scores)


def _vector(answer: bytes) -> Values:
    return list(pb.EmbedResponse.FromString(answer).embeddings)


def _scores(answer: bytes) -> Values:
    """Return the scores in the order of the request."""
    ranks = pb.RerankResponse.FromString(answer).ranks
    return [rank.score for rank in sorted(ranks, key=lambda rank: rank.index)]
