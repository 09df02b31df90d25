"""The model as a LitServe server: `python litserve_app.py PORT`."""

import sys
from typing import Any

import litserve
import numpy as np
from program import Program


class Mlp(litserve.LitAPI):
    def setup(self, device: Any) -> None:
        self._program = Program()

    def decode_request(self, request):  # an annotation would become its schema
        return np.asarray(request["instances"], np.float32)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._program(x)

    def encode_response(self, output: np.ndarray) -> Any:
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Mlp(), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", log_level="error", generate_client_file=False)
