"""Flavors: what the repository and the strategies need of a framework; one file and one line each."""

from raymill.flavors.base import Flavor, Predictor
from raymill.registry import Registry

FLAVORS: Registry[type[Flavor]] = Registry(
    "flavor",
    {
        "onnx": "raymill.flavors.onnx_flavor:OnnxFlavor",
        "tensorflow": "raymill.flavors.tf_flavor:TFFlavor",
        "torch": "raymill.flavors.torch_flavor:TorchFlavor",
        "xgboost": "raymill.flavors.xgboost_flavor:XGBoostFlavor",
    },
)

__all__ = ["FLAVORS", "Flavor", "Predictor"]
