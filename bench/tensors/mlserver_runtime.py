"""MLServer has no runtime for ONNX: this is the one that its documentation would have a user write."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from bench.tensors.session import session


class OnnxRuntime(MLModel):
    async def load(self) -> bool:
        self._session = session(self.settings.parameters.uri)
        self._outputs = [one.name for one in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        found = self._session.run(self._outputs, inputs)
        outputs = [NumpyCodec.encode_output(*pair) for pair in zip(self._outputs, found, strict=True)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
