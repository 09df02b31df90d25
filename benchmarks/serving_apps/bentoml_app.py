"""The model as a BentoML service: `bentoml serve bentoml_app:Mlp`."""

import bentoml
import numpy as np
from program import Program


@bentoml.service(workers=1)
class Mlp:
    def __init__(self) -> None:
        self._program = Program()

    @bentoml.api
    def predict(self, instances: list[list[float]]) -> dict[str, list[list[float]]]:
        return {"predictions": self._program(np.asarray(instances, np.float32)).tolist()}
