"""The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`, KServe's and Triton's clients.

https://github.com/kserve/open-inference-protocol, with Triton's repository, statistics and model
configuration extensions. MLServer's clients ask for the repository at `ModelRepositoryService`.
A version may be a label.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
from google.protobuf.json_format import ParseDict

import raymill
from raymill.errors import InvalidInput, NotFound
from raymill.serving import oip_tensors, packed
from raymill.serving.oip_config import model_config
from raymill.serving.oip_parameters import refuse_extensions, refuse_overrides
from raymill.serving.plane import Plane
from raymill.serving.proto import oip_messages_pb2 as pb
from raymill.serving.proto import oip_repository_service_pb2, oip_service_pb2
from raymill.serving.served import version_or_label
from raymill.serving.statistics import ModelStatistics
from raymill.tensors import OIP_DTYPES, TensorSpec

EXTENSIONS = ("model_repository", "model_repository(unload_dependents)", "statistics", "model_configuration")
_CONTENTS = {
    "bool": "bool_contents", "int8": "int_contents", "int16": "int_contents", "int32": "int_contents",
    "int64": "int64_contents", "uint8": "uint_contents", "uint16": "uint_contents",
    "uint32": "uint_contents", "uint64": "uint64_contents", "float32": "fp32_contents",
    "float64": "fp64_contents", "string": "bytes_contents",
}  # fmt: skip


class OipGrpc:
    """Health, metadata, infer; model repository, statistics and configuration."""

    name: ClassVar[str] = "oip_grpc"
    services: ClassVar[tuple[Any, ...]] = (
        *oip_repository_service_pb2.DESCRIPTOR.services_by_name.values(),
        *oip_service_pb2.DESCRIPTOR.services_by_name.values(),
    )
    servicer_functions: ClassVar[tuple[str, ...]] = ("add_inference_service", "add_repository_service")

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    @staticmethod
    def about(request: Any, answer: Any) -> tuple[str, str]:
        model = getattr(request, "model_name", "") or getattr(request, "name", "")
        return model, getattr(answer, "model_version", "")

    async def ServerLive(self, request: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._plane.ready())

    async def ModelReady(self, request: Any) -> Any:
        """Say false of what is not there, as Triton does."""
        try:
            ready = self._plane.model_ready(request.name, version_or_label(request.version))
        except NotFound:
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    async def ServerMetadata(self, request: Any) -> Any:
        return pb.ServerMetadataResponse(name="raymill", version=raymill.__version__, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any) -> Any:
        model, wanted = request.name, version_or_label(request.version)
        number, manifest = self._plane.manifest(model, wanted)
        served = self._plane.served().get(model)  # none where it was just unloaded
        versions = sorted(served.versions) if served and wanted is None else [number]
        return pb.ModelMetadataResponse(
            name=model,
            versions=map(str, versions),
            platform=f"raymill_{manifest.flavor}",
            inputs=map(_described, manifest.signature.inputs),
            outputs=map(_described, manifest.signature.outputs),
        )

    async def ModelConfig(self, request: Any) -> Any:
        number, manifest = self._plane.manifest(request.name, version_or_label(request.version))
        return ParseDict(
            {"config": model_config(request.name, number, manifest)},
            pb.ModelConfigResponse(),
        )

    async def ModelInfer(self, request: Any) -> Any:
        model, wanted = request.model_name, version_or_label(request.model_version)
        _, manifest = self._plane.manifest(model, wanted)
        specs = {spec.name: spec for spec in manifest.signature.inputs}
        have = {spec.name: spec for spec in manifest.signature.outputs}
        names = _asked(request.outputs, have) if request.outputs else have
        answer = await self._plane.infer(model, _columns(request, specs), wanted)
        response = pb.ModelInferResponse(model_name=model, model_version=str(answer.version), id=request.id)
        for name in names:
            values = answer.outputs[name]
            response.outputs.add(name=name, datatype=OIP_DTYPES[have[name].dtype], shape=values.shape)
            if request.raw_input_contents:
                response.raw_output_contents.append(np.ascontiguousarray(values).tobytes())
            else:
                contents = response.outputs[-1].contents
                getattr(contents, _CONTENTS[have[name].dtype]).append(packed.pack(values))
        return response

    async def RepositoryIndex(self, request: Any) -> Any:
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.name,
                    version="" if entry.version is None else str(entry.version),
                    state=entry.state,
                    reason=entry.reason,
                )
                for entry in self._plane.index()
                if entry.state == "READY" or not request.ready
            ]
        )

    async def RepositoryModelLoad(self, request: Any) -> Any:
        model = request.model_name or request.repository_or_model_name
        refuse_overrides(request.parameters)
        await self._plane.load_model(model)
        return pb.RepositoryModelLoadResponse(model_name=model, is_loaded=True)

    async def RepositoryModelUnload(self, request: Any) -> Any:
        model = request.model_name or request.repository_or_model_name
        await self._plane.unload_model(model)
        return pb.RepositoryModelUnloadResponse(model_name=model, is_unloaded=True)

    async def ModelStatistics(self, request: Any) -> Any:
        found = self._plane.statistics(request.name or None, version_or_label(request.version))
        return pb.ModelStatisticsResponse(model_stats=map(_statistics, found))


def _asked(outputs: Any, have: Collection[str]) -> Collection[str]:
    """Return the names of the outputs that a request asks for.

    Raises:
        InvalidInput: an output that the model does not have, or in a way that is not served.
    """
    found: dict[str, None] = {}
    for output in outputs:
        if output.name not in have:
            raise InvalidInput(f"the model has no output {output.name!r:.60}; have: {', '.join(have)}")
        if output.name in found:  # some kilobytes of names would make a gigabyte of answer
            raise InvalidInput(f"output {output.name!r} is asked for more than once; ask for it once")
        refuse_extensions(output.parameters, f"output {output.name!r}")
        found[output.name] = None
    return found


def _columns(request: Any, specs: dict[str, TensorSpec]) -> dict[str, Sequence[Any] | np.ndarray]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        for tensor in request.inputs:
            refuse_extensions(tensor.parameters, f"input {tensor.name!r:.60}")
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} tensors for {len(request.inputs)} inputs; give one for each"
        )
    found: dict[str, Sequence[Any] | np.ndarray] = {}
    for at, tensor in enumerate(request.inputs):
        name = tensor.name
        spec = specs.get(name)
        if name in found:
            raise InvalidInput(f"input {name!r:.60} comes twice")
        if spec is None:  # the encoder says which inputs there are
            found[name] = ()
            continue
        rows = oip_tensors.check(name, tensor.datatype, list(tensor.shape), spec)
        if raw and tensor.HasField("contents"):
            raise InvalidInput(f"input {name!r} has contents, and the request raw_input_contents; give one")
        found[name] = oip_tensors.from_bytes(raw[at], spec, rows) if raw else _listed(tensor, spec, rows)
    return found


def _listed(tensor: Any, spec: TensorSpec, rows: int) -> Sequence[Any] | np.ndarray:
    """Return the values of a tensor's contents; whole numbers as int64, not yet held to a range.

    Raises OneByOne as `packed.find_strays` does.
    """
    if spec.dtype not in _CONTENTS:
        raise InvalidInput(
            f"input {spec.name!r}: {OIP_DTYPES[spec.dtype]} travels in raw_input_contents only"
        )
    field = _CONTENTS[spec.dtype]
    given = getattr(tensor.contents, field)
    size = rows * math.prod(spec.shape[1:])
    if spec.dtype == "string":
        values: Any = packed.texts(given, spec.name)
    else:
        values = packed.numbers(given, spec.dtype)
    if len(values) != size:
        refuse_extensions(tensor.parameters, f"input {spec.name!r}")
        packed.find_strays(tensor.contents)
        raise InvalidInput(
            f"input {spec.name!r} has {len(values)} elements in {field}, its shape makes {size}"
        )
    if spec.dtype == "string":
        return values  # type: ignore[no-any-return]
    if spec.dtype == "bool":
        values = values.astype(bool)
    return np.asarray(values.reshape(rows, *spec.shape[1:]))


def _described(spec: TensorSpec) -> Any:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=OIP_DTYPES[spec.dtype], shape=spec.shape
    )


def _statistics(found: ModelStatistics) -> Any:
    return pb.ModelStatistics(
        name=found.model,
        version=str(found.version),
        last_inference=found.last_inference_ms,
        inference_count=found.inference_count,
        execution_count=found.execution_count,
        inference_stats=pb.InferStatistics(
            **{
                phase: pb.StatisticDuration(count=duration.count, ns=duration.ns)
                for phase, duration in found.durations.items()
            }
        ),
    )
