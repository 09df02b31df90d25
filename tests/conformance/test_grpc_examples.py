"""tf.Examples over gRPC: Classify, Regress and MultiInference, and what is null in an example."""

from __future__ import annotations

from typing import Any

import pytest
from test_grpc import NAN, Ask, refused

from raymill.serving.proto import tfserving_messages_pb2 as tfs


def example(**features: Any) -> Any:
    kinds = {str: "bytes_list", float: "float_list", int: "int64_list"}
    found = {}
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        kind = kinds[type(values[0])]
        values = [v.encode() if isinstance(v, str) else v for v in values]
        found[name] = tfs.Feature(**{kind: {"value": values}})
    return tfs.Example(features=tfs.Features(feature=found))


def test_classify_regress_and_both(ask: Ask) -> None:
    examples = [example(x=0.5, w="a"), example(x=0.0, w="zz")]
    given = tfs.Input(example_list=tfs.ExampleList(examples=examples))
    spec = tfs.ModelSpec(name="kinds")
    classified = ask("Classify", tfs.ClassificationRequest(model_spec=spec, input=given))
    labels = [[found.label for found in row.classes] for row in classified.result.classifications]
    assert labels == [["low", "mid", "high"]] * 2
    best = [max(row.classes, key=lambda c: c.score).label for row in classified.result.classifications]
    assert best == ["high", "low"]
    chance = ask("Classify", tfs.ClassificationRequest(model_spec=tfs.ModelSpec(name="chance"), input=given))
    assert sum(c.score for c in chance.result.classifications[0].classes) == pytest.approx(1)
    context = tfs.ExampleListWithContext(examples=[example(x=1.0), example(x=2.0)], context=example(w="a"))
    shared = tfs.Input(example_list_with_context=context)
    spec = tfs.ModelSpec(name="toy")
    regressed = ask("Regress", tfs.RegressionRequest(model_spec=spec, input=shared))
    assert [row.value for row in regressed.result.regressions] == [3.0, 5.0]
    lone = tfs.Input(example_list=tfs.ExampleList(examples=[example(w="a")]))
    absent = ask("Regress", tfs.RegressionRequest(model_spec=spec, input=lone))
    assert [row.value for row in absent.result.regressions] == [21.0]
    tasks = [
        tfs.InferenceTask(model_spec=spec, method_name="tensorflow/serving/regress"),
        tfs.InferenceTask(model_spec=tfs.ModelSpec(name="kinds"), method_name="tensorflow/serving/classify"),
    ]
    both = ask("MultiInference", tfs.MultiInferenceRequest(tasks=tasks, input=given))
    assert [row.value for row in both.results[0].regression_result.regressions] == [2.0, 0.0]
    assert len(both.results[1].classification_result.classifications) == 2


def test_what_is_null_in_an_example(ask: Ask) -> None:
    """A feature missing in one example or in all, and NaN, as in a tensor; the toy counts null as 10."""

    def regressed(*examples: Any) -> list[float]:
        given = tfs.Input(example_list=tfs.ExampleList(examples=examples))
        asked = tfs.RegressionRequest(model_spec=tfs.ModelSpec(name="toy"), input=given)
        return [row.value for row in ask("Regress", asked).result.regressions]

    assert regressed(example(x=1.0, w="a"), example(w="a"), example(x=NAN, w="a")) == [3.0, 21.0, 21.0]
    assert regressed(example(w="a")) == regressed(example(x=NAN, w="a")) == [21.0]
    assert regressed(example(x=1.0)) == [2.0]
    given = tfs.Input(example_list=tfs.ExampleList(examples=[example(n=1, w="a")]))
    strict = tfs.RegressionRequest(model_spec=tfs.ModelSpec(name="strict"), input=given)
    assert "missing inputs: x" in refused(ask, "INVALID_ARGUMENT", "Regress", strict)


def test_classify_and_regress_refuse(ask: Ask) -> None:
    def request(*examples: Any, model: str = "toy") -> Any:
        given = tfs.Input(example_list=tfs.ExampleList(examples=examples))
        return tfs.RegressionRequest(model_spec=tfs.ModelSpec(name=model), input=given)

    assert "Input is empty" in refused(ask, "INVALID_ARGUMENT", "Regress", request())
    assert "unknown inputs: y" in refused(
        ask, "INVALID_ARGUMENT", "Regress", request(example(x=1.0, w="a", y=1.0))
    )
    assert "takes 1" in refused(ask, "INVALID_ARGUMENT", "Regress", request(example(x=[1.0, 2.0], w="a")))
    assert "use Classify" in refused(
        ask, "INVALID_ARGUMENT", "Regress", request(example(x=1.0, w="a"), model="kinds")
    )
    given = tfs.Input(example_list=tfs.ExampleList(examples=[example(x=1.0, w="a")]))
    classify = tfs.ClassificationRequest(model_spec=tfs.ModelSpec(name="toy"), input=given)
    assert "no classifier" in refused(ask, "INVALID_ARGUMENT", "Classify", classify)
