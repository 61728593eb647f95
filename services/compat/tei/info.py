"""tei.v1.Info: the served model and the limits."""

from importlib.metadata import version
from typing import Final

from sluice.tei.v1 import tei_service_pb2 as pb
from sluice.tei.v1.tei_service_pb2_grpc import InfoServicer, add_InfoServicer_to_server

from services.compat.tei.call import TeiBackend
from services.inference.bundle import Manifest, VariantName
from services.rpc.auth.authorizer import methods_of
from services.rpc.server.interceptor import Context
from services.rpc.server.lifecycle import Service

_DTYPES: Final[dict[VariantName, str]] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
# Admission depends on the time that calls need, not on their number.
_NO_LIMIT: Final = 2**32 - 1


class TeiInfo(InfoServicer):
    """Reports the served model and the limits."""

    def __init__(self, backend: TeiBackend, *, reranks: bool) -> None:
        self._backend = backend
        self._reranks = reranks

    @property
    def service(self) -> Service:
        """The service to register with a server."""
        name = "tei.v1.Info"
        return Service(name, lambda server: add_InfoServicer_to_server(self, server), reads=methods_of(name))

    async def Info(self, request: pb.InfoRequest, context: Context) -> pb.InfoResponse:
        """Return the model and the limits."""
        settings = self._backend.settings
        with self._backend.using(context) as model:
            manifest = model.bundle.manifest
            return pb.InfoResponse(
                version=version("sluice-search"),
                model_id=manifest.source.checkpoint,
                model_sha=manifest.source.revision,
                model_dtype=_DTYPES[model.session.variant],
                model_type=self._type(manifest),
                max_concurrent_requests=_NO_LIMIT,
                max_input_length=manifest.max_token_count,
                max_batch_tokens=settings.max_batch_tokens,
                max_batch_requests=settings.max_batch_rows,
                max_client_batch_size=self._backend.most_texts,
                tokenization_workers=settings.threads,
            )

    def _type(self, manifest: Manifest) -> pb.ModelType.ValueType:
        if not self._reranks:
            return pb.MODEL_TYPE_EMBEDDING
        return pb.MODEL_TYPE_CLASSIFIER if len(manifest.labels) > 1 else pb.MODEL_TYPE_RERANKER
