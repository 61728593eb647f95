"""The metrics of the retrieval service. Label values come from closed sets; units are base units."""

from typing import Final

from prometheus_client import Counter

LIVE_CANDIDATES: Final = Counter(
    "sluice_live_candidates",
    "Candidates of sampled searches that were repeated exactly: `found` by the approximate search, or `missed`.",
    ["outcome"],
)
LANE_REFUSED: Final = Counter(
    "sluice_lane_refused", "Calls rejected because too many others waited: `reads` or `writes`.", ["lane"]
)
WORDS_CUT: Final = Counter("sluice_words_cut", "Words of texts and queries that were cut at 255 bytes.")
RANKINGS: Final = Counter("sluice_rankings", "Rankings returned: `full`, or `cut` short by the deadline.", ["outcome"])

# Name and description of gauges that are computed when metrics are collected. Those of collections have one value for
# each collection, of which there are at most `max_collections`.
COLLECTION_DOCUMENTS: Final = ("sluice_collection_documents", "Documents in the collection.")
COLLECTION_UNINDEXED: Final = (
    "sluice_collection_unindexed_documents",
    "Documents that are not in an approximate index yet and are compared one by one.",
)
COLLECTION_DELETED: Final = (
    "sluice_collection_deleted_documents",
    "Deleted documents that still take space in the index.",
)
COLLECTION_VECTORS: Final = (
    "sluice_collection_vector_bytes",
    "Bytes of the collection's vectors, in memory or mapped from segments.",
)
COLLECTION_MEMORY: Final = (
    "sluice_collection_memory_bytes",
    "Estimated bytes of memory of the collection, without vectors that are mapped from segments.",
)
COLLECTION_SEGMENTS: Final = ("sluice_collection_segment_bytes", "Bytes of the files of the collection's segments.")
STORE_LOG: Final = ("sluice_store_log_bytes", "Bytes of the write-ahead log.")
STORE_FREE: Final = ("sluice_store_free_bytes", "Free bytes on the disk of the data folder.")
STORE_WRITABLE: Final = ("sluice_store_writable", "1 while the data folder accepts writes, else 0.")
