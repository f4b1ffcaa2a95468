"""Whether an Inference can be a Model's: names, datatypes, shapes, rows."""

from __future__ import annotations

from agent.errors import BadRequest
from agent.offered import Offered
from agent.tensor import Inference, Tensor
from models.onnx import TensorSpec


def check(asked: Inference, model: Offered, most_rows: int) -> None:
    """Whether these inputs can be the model's. Raises BadRequest. A remote one's server judges for itself."""
    if model.remote is not None:
        return
    if model.tensors is None:
        raise BadRequest(f"{model.name} takes no tensors")
    wanted = {spec.name: spec for spec in model.tensors.inputs}
    given = {tensor.name: tensor for tensor in asked.inputs}
    if len(given) != len(asked.inputs):
        raise BadRequest("an input is given twice")
    if missing := wanted.keys() - given.keys():
        raise BadRequest(f"input '{min(missing)}' is missing")
    for name, tensor in given.items():
        if name not in wanted:
            raise BadRequest(f"the model has no input '{name[:100]}'; it has {', '.join(sorted(wanted))}")
        _check_input(tensor, wanted[name], most_rows)
    known = {spec.name for spec in model.tensors.outputs}
    for name in asked.outputs:
        if name not in known:
            raise BadRequest(f"the model has no output '{name[:100]}'; it has {', '.join(sorted(known))}")


def _check_input(tensor: Tensor, spec: TensorSpec, most_rows: int) -> None:
    name = spec.name
    if tensor.datatype != spec.datatype:
        raise BadRequest(f"input '{name}' must be of {spec.datatype}, not {tensor.datatype}")
    fits = len(tensor.shape) == len(spec.shape) and all(
        size in (None, there) for size, there in zip(spec.shape, tensor.shape, strict=True)
    )
    if not fits:
        shape = [-1 if size is None else size for size in spec.shape]
        raise BadRequest(f"input '{name}' must have the shape {shape}, not {list(tensor.shape)}")
    if spec.shape[:1] == (None,) and tensor.shape[0] > most_rows:
        raise BadRequest(f"input '{name}' has {tensor.shape[0]} rows; at most {most_rows} are allowed")
