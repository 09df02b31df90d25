"""Forms of infer requests: what their JSON says, without the values of their binary tensors.

A client sends the same JSON before its tensors time after time; reading and checking it, and writing the
JSON of the answer, cost more than a small model. So the forms of requests whose tensors are all binary are
kept by that JSON, to the byte. One with an `id`, which is another each time, is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymill.serving import oip_tensors
from raymill.serving.http import json_bytes
from raymill.serving.json_columns import Columns
from raymill.serving.served import Answer
from raymill.tensors import Signature, TensorSpec, numpy_dtype

KEPT, MAX_JSON_BYTES = 256, 1 << 14
_RAW = {"parameters": {"binary_data_output": True}}  # how Triton answers a body without JSON


class Place:
    """Where the bytes of one tensor are among those of a request's, and what they mean."""

    def __init__(self, spec: TensorSpec, rows: int, start: int, end: int) -> None:
        self.spec, self.rows, self.start, self.end = spec, rows, start, end
        self._shape = (rows, *spec.shape[1:])
        self._dtype = None if spec.dtype in ("string", "bool") else numpy_dtype(spec.dtype)

    def read(self, body: bytes, start: int) -> np.ndarray | list[str]:
        """Return the tensor of a request whose tensors begin at `start`. Raises as `from_bytes` does."""
        if self._dtype is not None:  # nothing is left to be checked
            return np.ndarray(self._shape, self._dtype, body, start + self.start)
        return oip_tensors.from_bytes(body[start + self.start : start + self.end], self.spec, self.rows)


@dataclass(slots=True)
class Form:
    """One form of requests to one version of a model."""

    document: Mapping[str, Any]
    signature: Signature
    asked: oip_tensors.Asked
    places: Sequence[Place] = ()
    """Of every tensor, where all are binary."""
    _said: tuple[bytes, Sequence[str]] | None = None
    """The JSON of an answer, which rows and model settle where all outputs are binary; and their names."""

    @property
    def size(self) -> int:
        """Bytes of all binary tensors."""
        return self.places[-1].end if self.places else 0

    def columns(self, body: bytes, start: int) -> Columns:
        """Return the columns of another request of this form, whose tensors begin at `start`.

        Raises as `oip_tensors.from_bytes`.
        """
        return {place.spec.name: place.read(body, start) for place in self.places}

    def answer(self, model: str, answer: Answer) -> tuple[bytes, list[bytes]]:
        """Return the JSON that answers a request, and the bytes of the outputs that are to be binary."""
        if self._said:
            said, names = self._said
            return said, [answer.outputs[name].tobytes() for name in names]
        outputs, binary = oip_tensors.outputs(self.asked, answer.outputs)
        document = {"model_name": model, "model_version": str(answer.version), "outputs": outputs}
        identity = self.document.get("id")
        if identity is not None:
            document["id"] = identity
        found = json_bytes(document)
        if self.places and len(binary) == len(outputs):
            self._said = found, [output["name"] for output in outputs]
        return found, binary


class Forms:
    """Reads requests; the forms that were new last are kept."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int, bytes], Form] = {}

    def read(
        self, model: str, version: int, body: bytes, header: bytes | None, signature: Signature
    ) -> tuple[Form, Columns]:
        """Return a request's form and columns.

        Raises as `oip_tensors.split`, `columns`, `asked` and `raw`: all of it before the model runs.
        """
        size = oip_tensors.json_size(body, header)
        key = (model, version, body[:size])
        form = self._kept.get(key) if header is not None else None
        if form is not None and form.signature is signature and size + form.size == len(body):
            return form, form.columns(body, size)
        if header is not None and not size:
            return Form({}, signature, oip_tensors.asked(_RAW, signature)), oip_tensors.raw(body, signature)
        document, binary = oip_tensors.split(body, size)
        columns = oip_tensors.columns(document, binary, signature)
        form = Form(document, signature, oip_tensors.asked(document, signature))
        if header is not None and size <= MAX_JSON_BYTES and document.get("id") is None:
            form.places = _places(document["inputs"], signature)
            if form.places:
                if len(self._kept) >= KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = form
        return form, columns


def _places(inputs: Sequence[Mapping[str, Any]], signature: Signature) -> list[Place]:
    """Return where the tensors of a request that was read are, none if one is not binary or not known."""
    specs = {spec.name: spec for spec in signature.inputs}
    found, start = [], 0
    for tensor in inputs:
        if "data" in tensor or tensor["name"] not in specs:
            return []
        end = start + tensor["parameters"]["binary_data_size"]
        found.append(Place(specs[tensor["name"]], tensor["shape"][0], start, end))
        start = end
    return found
