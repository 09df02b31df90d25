"""TensorFlow Serving's gRPC API: `tensorflow.serving.PredictionService` and `ModelService`.

https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis. A client changes its host name
only; as TF Serving's, outputs carry their names, and the first is also there as `prediction`, the name
that clients of TensorFlow's exporters ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from google.protobuf import any_pb2

from raymill.errors import Conflict, InvalidInput, Unsupported
from raymill.serving import tfserving_tensors
from raymill.serving.plane import Plane
from raymill.serving.proto import tfserving_messages_pb2 as pb
from raymill.serving.proto import tfserving_services_pb2
from raymill.serving.tfserving_tensors import DT
from raymill.tensors import TensorSpec

SIGNATURE_NAME = "serving_default"
ALIAS = "prediction"
STATES = {"LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}
_UNKNOWN = 2  # error.Code of a version that could not be loaded
_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"

Wanted = str | int | None


class TFServingGrpc:
    """Predict, classify, regress, both at once, metadata; status and reload."""

    name: ClassVar[str] = "tfserving_grpc"
    services: ClassVar[tuple[Any, ...]] = tuple(tfserving_services_pb2.DESCRIPTOR.services_by_name.values())
    servicer_functions: ClassVar[tuple[str, ...]] = ("add_prediction_service", "add_model_service")

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    @staticmethod
    def about(request: Any, answer: Any) -> tuple[str, str]:
        asked, answered = getattr(request, "model_spec", None), getattr(answer, "model_spec", None)
        version = answered.version.value if answered is not None else 0
        return asked.name if asked is not None else "", str(version or "")

    async def Predict(self, request: Any) -> Any:
        if request.model_spec.signature_name not in ("", SIGNATURE_NAME):  # another status than elsewhere
            raise Conflict(f'Serving signature key "{request.model_spec.signature_name}" not found.')
        model, wanted = _asked(request.model_spec)
        _, manifest = self._plane.manifest(model, wanted)
        specs = {spec.name: spec for spec in manifest.signature.inputs}
        most = tfserving_tensors.MAX_FILLED_BYTES // len(specs)
        columns = {
            name: tfserving_tensors.column(name, tensor, specs.get(name), most)
            for name, tensor in request.inputs.items()
        }
        answer = await self._plane.infer(model, columns, wanted)
        response = pb.PredictResponse()
        _spec(response.model_spec, model, answer.version)
        for name, values in _chosen(answer.outputs, request.output_filter).items():
            tfserving_tensors.fill(response.outputs[name], values)
        return response

    async def Classify(self, request: Any) -> Any:
        model, wanted = _asked(request.model_spec)
        number, result = await self._classify(model, wanted, request.input)
        response = pb.ClassificationResponse(result=result)
        _spec(response.model_spec, model, number)
        return response

    async def Regress(self, request: Any) -> Any:
        model, wanted = _asked(request.model_spec)
        number, result = await self._regress(model, wanted, request.input)
        response = pb.RegressionResponse(result=result)
        _spec(response.model_spec, model, number)
        return response

    async def MultiInference(self, request: Any) -> Any:
        if not request.tasks:
            raise InvalidInput("Inference request must have at least one task")
        response = pb.MultiInferenceResponse()
        for task in request.tasks:
            model, wanted = _asked(task.model_spec)
            result = response.results.add()
            if task.method_name == _CLASSIFY:
                number, found = await self._classify(model, wanted, request.input)
                result.classification_result.CopyFrom(found)
            elif task.method_name == _REGRESS:
                number, found = await self._regress(model, wanted, request.input)
                result.regression_result.CopyFrom(found)
            else:
                raise Unsupported(
                    f"Unsupported signature method_name: {task.method_name!r}; have: {_CLASSIFY}, {_REGRESS}"
                )
            _spec(result.model_spec, model, number)
        return response

    async def GetModelMetadata(self, request: Any) -> Any:
        if not request.metadata_field:
            raise InvalidInput("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise InvalidInput(f"Metadata field {field} is not supported; have: signature_def")
        model, wanted = _asked(request.model_spec)
        number, manifest = self._plane.manifest(model, wanted)
        inputs = {spec.name: _tensor_info(spec) for spec in manifest.signature.inputs}
        first, *_ = outputs = manifest.signature.outputs
        infos = {spec.name: _tensor_info(spec) for spec in outputs}
        signature = pb.SignatureDef(
            inputs=inputs,
            outputs={ALIAS: infos[first.name]} | infos,
            method_name="tensorflow/serving/predict",
        )
        whole = any_pb2.Any(
            type_url="type.googleapis.com/tensorflow.serving.SignatureDefMap",
            value=pb.SignatureDefMap(signature_def={SIGNATURE_NAME: signature}).SerializeToString(),
        )
        response = pb.GetModelMetadataResponse(metadata={"signature_def": whole})
        _spec(response.model_spec, model, number)
        return response

    async def GetModelStatus(self, request: Any) -> Any:
        model, wanted = _asked(request.model_spec)
        return pb.GetModelStatusResponse(
            model_version_status=[
                pb.ModelVersionStatus(
                    version=status.number,
                    state=STATES[status.state],
                    status=pb.Status(error_code=_UNKNOWN if status.error else 0, error_message=status.error),
                )
                for status in self._plane.status(model, wanted)
            ]
        )

    async def HandleReloadConfigRequest(self, request: Any) -> Any:
        """Serve exactly the models that the request lists, at the versions its policies name."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidInput(
                "ReloadConfigRequest needs config.model_config_list; custom_model_config is none"
            )
        configs = request.config.model_config_list.config
        names = [config.name for config in configs]
        if len(set(names)) != len(names):
            raise InvalidInput(f"Duplicate model names in config: {sorted(names)}")
        await self._plane.replace({config.name: _versions(config) for config in configs})
        return pb.ReloadConfigResponse(status=pb.Status())

    async def _classify(self, model: str, wanted: Wanted, given: Any) -> tuple[int, Any]:
        classes = self._plane.classes(model, wanted)
        number, scores = await self._scores(model, wanted, given)
        if scores.ndim == 1:  # the chance of the second of two classes
            scores = np.stack([1 - scores, scores], axis=1)
        result = pb.ClassificationResult()
        for row in scores.tolist():
            found = result.classifications.add()
            for label, score in zip(classes, row, strict=True):
                found.classes.add(label=label, score=score)
        return number, result

    async def _regress(self, model: str, wanted: Wanted, given: Any) -> tuple[int, Any]:
        _, manifest = self._plane.manifest(model, wanted)
        if manifest.task == "multiclass":
            raise InvalidInput(f"model {model!r} gives a chance for each class, not one value; use Classify")
        number, scores = await self._scores(model, wanted, given)
        return number, pb.RegressionResult(
            regressions=[pb.RegressionResult.Regression(value=score) for score in scores.tolist()]
        )

    async def _scores(self, model: str, wanted: Wanted, given: Any) -> tuple[int, np.ndarray]:
        _, manifest = self._plane.manifest(model, wanted)
        columns = tfserving_tensors.examples(given, manifest.signature)
        answer = await self._plane.infer(model, columns, wanted)
        return answer.version, next(iter(answer.outputs.values()))


def _asked(spec: Any) -> tuple[str, Wanted]:
    if not spec.name:
        raise InvalidInput("Missing ModelSpec: model_spec.name must name the model")
    if spec.signature_name not in ("", SIGNATURE_NAME):
        raise InvalidInput(f"Serving signature key {spec.signature_name!r} not found; have: {SIGNATURE_NAME}")
    choice = spec.WhichOneof("version_choice")
    if choice is None:
        return spec.name, None
    return spec.name, spec.version.value if choice == "version" else spec.version_label


def _spec(spec: Any, model: str, number: int) -> None:
    spec.name, spec.signature_name, spec.version.value = model, SIGNATURE_NAME, number


def _chosen(outputs: Mapping[str, np.ndarray], wanted: Any) -> dict[str, np.ndarray]:
    have = {ALIAS: next(iter(outputs.values()))} | dict(outputs)
    chosen: dict[str, np.ndarray] = {}
    for name in wanted:
        if name not in have:
            raise InvalidInput(f"output tensor alias not found in signature: {name}; have: {', '.join(have)}")
        if name in chosen:
            raise InvalidInput(f"duplicate output tensor alias: {name}")
        chosen[name] = have[name]
    return chosen or have


def _tensor_info(spec: TensorSpec) -> Any:
    dims = [pb.TensorShape.Dim(size=size) for size in spec.shape]
    return pb.TensorInfo(
        name=f"{SIGNATURE_NAME}_{spec.name}:0", dtype=DT[spec.dtype], tensor_shape=pb.TensorShape(dim=dims)
    )


def _versions(config: Any) -> tuple[str | int, ...]:
    """Return what a ModelConfig says is to be served, in the terms of a serve spec."""
    policy = config.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if config.version_labels:
        raise Unsupported(
            f"model {config.name!r}: labels belong to the repository, where all servers see them; "
            "move one with `raymill models label`, and leave version_labels out"
        )
    if choice == "specific":
        if not policy.specific.versions:
            raise InvalidInput(f"model {config.name!r}: `specific` names no version")
        return tuple(sorted(policy.specific.versions, reverse=True))  # who names none gets the largest
    if choice == "all":
        return ("latest:all",)
    return (f"latest:{policy.latest.num_versions}" if policy.latest.num_versions > 1 else "latest",)
