"""Torch networks as ONNX graphs: onnxruntime answers a row in a tenth of the exported program's time.

The file is a protocol buffer and cannot hold code, but it can name other files and custom operators; what
does is refused. Predicting needs no torch.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from raymill.errors import Corrupt, needs_extra
from raymill.features import Features
from raymill.flavors.base import Predictor

GRAPH_FILE = "model.onnx"
NUMERIC, CODES, SCORES = "numeric", "codes", "scores"
_PREFIX = "network."


def write_graph(program: Any, directory: Path) -> None:
    """Write an exported program, of any number of rows, as a graph.

    Raises:
        Unavailable: the extra `onnx` is not installed.
    """
    with needs_extra("onnx"):
        import onnx
        import onnxscript  # noqa: F401  torch asks for it in words of its own
        import torch

    verbose = logging.getLogger("torch.onnx")
    level = verbose.level
    verbose.setLevel(logging.ERROR)  # it warns of torchvision, which nothing here uses
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own use of torch
            made: Any = torch.onnx.export(
                program, dynamo=True, input_names=[NUMERIC, CODES], output_names=[SCORES], verbose=False
            )
    finally:
        verbose.setLevel(level)
    graph = made.model_proto
    for node in [graph.graph, *graph.graph.node, *graph.graph.input, *graph.graph.output]:
        del node.metadata_props[:]  # names of this machine's files
    for value in graph.graph.value_info:
        del value.metadata_props[:]
    onnx.save(graph, str(directory / GRAPH_FILE))
    read_graph(directory / GRAPH_FILE)


def load_graph(directory: Path) -> Predictor:
    """Return the graph of a directory, ready to predict.

    Raises:
        Corrupt: no graph that runs here, or one that `read_graph` refuses.
    """
    with needs_extra("onnx"):
        import onnxruntime

    path = directory / GRAPH_FILE
    read_graph(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # a replica's requests are many and small
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a type for each status
        raise Corrupt(f"{path} is no ONNX graph that runs here: {error!r:.300}") from error
    names = [each.name for each in session.get_inputs()], [each.name for each in session.get_outputs()]
    if not set(names[0]) <= {NUMERIC, CODES} or names[1] != [SCORES]:
        raise Corrupt(f"{path} takes {names[0]} and gives {names[1]}; another program wrote it")
    return _OnnxPredictor(session, set(names[0]))


def graph_weights(directory: Path) -> dict[str, np.ndarray]:
    """Return the learned arrays of a graph, in the names of its learner's `weights`. Raises Corrupt."""
    from onnx import numpy_helper

    buffers = ("mean_F", "scale_F", "nullable_I")
    return {
        found.name.removeprefix(_PREFIX): np.array(numpy_helper.to_array(found))
        for found in read_graph(directory / GRAPH_FILE).graph.initializer
        if found.name.startswith(_PREFIX) and found.name.removeprefix(_PREFIX) not in buffers
    }


def read_graph(path: Path) -> Any:
    """Return the graph of a file.

    Raises:
        Corrupt: no graph, or one that names files or operators beyond ONNX's own.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's, the checker's, the file system's
        raise Corrupt(f"{path} is no ONNX graph: {error!r:.300}") from error
    graph = model.graph
    outside = [tensor.name for tensor in _tensors(model) if tensor.data_location or tensor.external_data]
    if outside:
        raise Corrupt(
            f"{path}: {outside[0]!r} lies in another file; refused. Publish the model again with Raymill"
        )
    custom = [node.op_type for node in graph.node if node.domain not in ("", "ai.onnx")]
    if custom or model.functions:
        raise Corrupt(f"{path} uses {custom or 'functions'} beyond ONNX's own operators; refused")
    return model


def _tensors(model: Any) -> list[Any]:
    found = list(model.graph.initializer)
    for node in model.graph.node:
        found += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise Corrupt(f"node {node.name!r} of {model.graph.name!r} holds a graph of its own; refused")
    return found


class _OnnxPredictor:
    def __init__(self, session: Any, inputs: set[str]) -> None:
        self._run, self._inputs = session.run, inputs

    def predict(self, features: Features) -> np.ndarray:
        given = {NUMERIC: features.numeric_NF, CODES: features.codes_NC}
        if len(self._inputs) < len(given):  # a graph has no inputs that it does not use
            given = {name: given[name] for name in self._inputs}
        return self._run([SCORES], given)[0]  # type: ignore[no-any-return]
