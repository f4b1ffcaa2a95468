"""LitServe, raw bytes in and out: `... bench.tensors.litserve_app FILE DATATYPE SHAPE CAP WORKERS PORT`.

LitServe's own way is JSON; a body of bytes is what its FastAPI below takes at the least cost.
"""

import sys
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body, Response

from bench.tensors.session import session

DELAY_S = 0.005
Raw = Annotated[bytes, Body(media_type="application/octet-stream")]


class Onnx(litserve.LitAPI):
    def __init__(self, file: str, datatype: str, shape: tuple[int, ...], cap: int) -> None:
        delay = DELAY_S if cap > 1 else 0.0
        super().__init__(max_batch_size=cap, batch_timeout=delay, api_path="/infer")
        self._file, self._dtype, self._shape = file, np.dtype(datatype), shape

    def setup(self, device: Any) -> None:
        self._session = session(self._file)
        self._input = self._session.get_inputs()[0].name

    def decode_request(self, request: Raw) -> Any:
        return np.frombuffer(request, self._dtype).reshape(self._shape)

    def batch(self, inputs: list[Any]) -> Any:
        return np.concatenate(inputs)

    def predict(self, x: Any) -> Any:
        return self._session.run(None, {self._input: x})[0]

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    file, datatype, shape, cap, workers, port = sys.argv[1:]
    api = Onnx(file, datatype, tuple(map(int, shape.split(","))), int(cap))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(workers))
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
