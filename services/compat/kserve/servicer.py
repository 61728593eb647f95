"""inference.GRPCInferenceService over gRPC, on top of an `InferenceBackend`."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Final

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import NotFound, SluiceError
from sluice.kserve.v2 import inference_service_pb2 as pb
from sluice.kserve.v2.inference_service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from services.compat.kserve.describe import config_of, index_of, last_version, metadata_of
from services.compat.kserve.infer_call import InferenceBackend, infer_call
from services.compat.kserve.statistics import Statistics
from services.compat.kserve.tensors import response_of
from services.compat.streams import in_order
from services.inference.catalog import Catalog
from services.inference.loader import Model
from services.inference.metrics import SERIALIZE
from services.inference.settings import ModelServerSettings
from services.inference.wire import INLINE_BYTES
from services.rpc.auth.authorizer import methods_of
from services.rpc.server.interceptor import Context
from services.rpc.server.lifecycle import Service
from services.rpc.server.offloading import offload
from services.rpc.validation import quote, validating

_EXTENSIONS: Final = ("model_configuration", "model_repository", "statistics")
_FINAL: Final = "triton_final_response"


class KserveServicer(GRPCInferenceServiceServicer):
    """Serves the models of a catalog as functions of tensors."""

    def __init__(self, catalog: Catalog, settings: ModelServerSettings, backend: InferenceBackend) -> None:
        self._catalog = catalog
        self._settings = settings
        self._backend = backend
        self._statistics = Statistics()

    @property
    def service(self) -> Service:
        """The service to register with a server."""
        name = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
        reads = methods_of(name, but=("RepositoryModelLoad", "RepositoryModelUnload"))
        return Service(name, lambda server: add_GRPCInferenceServiceServicer_to_server(self, server), reads=reads)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """Report that the server is live."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Report whether a model is loaded."""
        return pb.ServerReadyResponse(ready=bool(self._catalog.models))

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Report whether a model is loaded."""
        found = [(model.name, model.bundle.manifest.version) for model in self._catalog.models]
        ready = any(name == request.name and request.version in ("", version) for name, version in found)
        return pb.ModelReadyResponse(ready=ready)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """Return the name and version of the server."""
        return pb.ServerMetadataResponse(name="sluice", version=version("sluice-search"), extensions=_EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """Return the tensors of a model."""
        with self._using(request.name, request.version) as model:
            return metadata_of(model, self._backend.signature(model))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """Return the configuration of a model."""
        with self._using(request.name, request.version) as model:
            config = config_of(model, self._backend.signature(model), self._backend.most_rows)
            return pb.ModelConfigResponse(config=config)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        """Return the statistics of models."""
        if not request.name:
            return pb.ModelStatisticsResponse(model_stats=map(self._statistics.of, self._catalog.models))
        with self._using(request.name, request.version) as model:
            return pb.ModelStatisticsResponse(model_stats=[self._statistics.of(model)])

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Run a model."""
        return await self._infer(request, context)

    def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Run a model for each message."""

        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                response = await self._infer(request, context)
            except SluiceError as error:  # the error belongs to this message; the stream continues
                response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
                return pb.ModelStreamInferResponse(error_message=error.message, infer_response=response)
            response.parameters[_FINAL].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=response)

        return in_order(request_iterator, answer, context, idle_s=self._settings.max_deadline_s)

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        """List the loaded models, and the bundles that can be loaded."""
        _check_repository(request.repository_name)
        return await asyncio.to_thread(
            index_of, self._catalog.models, self._settings.repository, only_ready=request.ready
        )

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Load a bundle from the repository."""
        _check_repository(request.repository_name)
        _check_known(request.parameters, "version", "string_param")
        wanted = request.parameters["version"].string_param if "version" in request.parameters else ""
        if not wanted:
            wanted = await asyncio.to_thread(last_version, self._settings.repository, request.model_name)
        await self._catalog.load(request.model_name, wanted)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload a model."""
        _check_repository(request.repository_name)
        _check_known(request.parameters, "unload_dependents", "bool_param")
        await self._catalog.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def _infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Return the outputs of a model. Raises the errors of the backend."""
        backend = self._backend
        with self._using(request.model_name, request.model_version) as model, self._statistics.counting(model) as noted:
            signature = backend.signature(model)
            call, violations = infer_call(request, signature, backend, context, max_s=self._settings.max_deadline_s)
            noted.times = call.schedule.times
            outputs, noted.rows = await backend.infer(model, call, violations)
            with SERIALIZE.labels(model.name).time():
                wanted = {name: outputs[name] for name in call.wanted}
                size = sum(array.nbytes for array in wanted.values())
                response = await offload(partial(response_of, wanted), size=size, inline=INLINE_BYTES)
            response.model_name, response.id = model.name, request.id
            response.model_version = model.bundle.manifest.version
            return response

    @contextmanager
    def _using(self, name: str, wanted: str) -> Iterator[Model]:
        """Yield the model of a name and version; an empty version stands for any. Raises NotFound."""
        with self._catalog.using(name) as model:
            loaded = model.bundle.manifest.version
            if wanted not in ("", loaded):
                message = f"no version {quote(wanted)} of model {model.name!r} here; loaded version: {loaded!r}"
                raise NotFound(message, reason=ErrorReason.ERROR_REASON_UNKNOWN_MODEL, metadata={"model": model.name})
            yield model


def _check_repository(name: str) -> None:
    with validating() as violations:
        if name:
            violations.add("repository_name", f"expected none because there is only one repository, got {quote(name)}")


def _check_known(parameters: Mapping[str, pb.ModelRepositoryParameter], known: str, kind: str) -> None:
    """Raise InvalidRequest if there are other parameters than the known one, or if it has another type."""
    with validating() as violations:
        other = next((name for name in parameters if name != known), None)
        if other is not None:
            violations.add("parameters", f"expected {known} or none, got {quote(other)}")
        elif known in parameters and (given := parameters[known].WhichOneof("parameter_choice")) != kind:
            violations.add(f"parameters[{known}]", f"expected {kind}, got {given or 'no value'}")
