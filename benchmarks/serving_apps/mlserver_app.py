"""The model as an MLServer runtime; its folder's settings name the ports."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from program import Program


class Mlp(MLModel):
    async def load(self) -> bool:
        self._program = Program()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        scores = self._program(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])
