"""A published TensorFlow Serving example in gRPC, as it stands but for host, model and input names.

Then the rest of tensorflow-serving-api: metadata, status, classify, regress, reload, errors.
"""

from __future__ import annotations

import json
import sys

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)


def run(host: str, port: str):
    model_name = "strict"
    signature_name = "serving_default"
    input_data = {"x": [6.5], "n": [2], "w": ["a"]}

    channel = grpc.insecure_channel(f"{host}:{port}")
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature_name

    for key in input_data:
        request.inputs[key].CopyFrom(tf.make_tensor_proto([input_data[key]], shape=[1]))

    result = stub.Predict(request, 10.0)
    output_dict = {key: value.float_val for key, value in result.outputs.items()}
    return np.array(output_dict["prediction"])


def example(**features: object) -> tf.train.Example:
    kinds = {float: ("float_list", tf.train.FloatList), str: ("bytes_list", tf.train.BytesList)}
    found = {}
    for name, value in features.items():
        field, make = kinds[type(value)]
        found[name] = tf.train.Feature(
            **{field: make(value=[value.encode() if isinstance(value, str) else value])}
        )
    return tf.train.Example(features=tf.train.Features(feature=found))


def refused(call, request) -> list[str]:
    try:
        call(request, 10)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    raise AssertionError("must be refused")


def main(address: str) -> None:
    host, port = address.split(":")
    found = {"predictions": run(host, port).tolist()}
    channel = grpc.insecure_channel(address)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "vector"
    request.model_spec.version.value = 1
    whole = np.arange(300, dtype=np.float32).reshape(100, 3)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(whole))  # tensor_content
    scores = tf.make_ndarray(stub.Predict(request, 10).outputs["prediction"])
    np.testing.assert_allclose(scores, 2 * whole.sum(axis=1))

    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "vector"
    definitions = get_model_metadata_pb2.SignatureDefMap()
    answer = stub.GetModelMetadata(metadata, 10)
    assert answer.metadata["signature_def"].Unpack(definitions)
    signature = definitions.signature_def["serving_default"]
    found["input"] = [
        tf.dtypes.as_dtype(signature.inputs["x"].dtype).name,
        [dim.size for dim in signature.inputs["x"].tensor_shape.dim],
    ]

    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "toy"
    states = models.GetModelStatus(status, 10).model_version_status
    found["states"] = [
        [state.version, get_model_status_pb2.ModelVersionStatus.State.Name(state.state)] for state in states
    ]

    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name = "kinds"
    classify.input.example_list.examples.append(example(x=1.0, w="zz"))
    classes = stub.Classify(classify, 10).result.classifications[0].classes
    found["class"] = max(classes, key=lambda c: c.score).label
    regress = regression_pb2.RegressionRequest()
    regress.model_spec.name = "toy"
    regress.input.example_list.examples.append(example(x=1.0, w="a"))
    found["regressed"] = stub.Regress(regress, 10).result.regressions[0].value

    request.model_spec.name = "tyo"
    found["refused"] = [refused(stub.Predict, request)]
    request.model_spec.name = "vector"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0, 2.0]]))
    found["refused"].append(refused(stub.Predict, request))
    reload = model_management_pb2.ReloadConfigRequest()
    reload.config.model_config_list.config.add(name="nothing")
    found["refused"].append(refused(models.HandleReloadConfigRequest, reload))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
