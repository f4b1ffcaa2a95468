"""What is read of a request beside protobuf is what protobuf would have read. Triton's own messages judge."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from agent.doors.grpc.raw import MOST_FIELDS, split

names = st.text(max_size=5)
messages = st.builds(
    lambda model, id, inputs, raw: pb.ModelInferRequest(
        model_name=model,
        id=id,
        inputs=[pb.ModelInferRequest.InferInputTensor(name=name, shape=[1, at]) for at, name in inputs],
        raw_input_contents=raw,
    ),
    names,
    names,
    st.lists(st.tuples(st.integers(0, 2**40), names), max_size=4),
    st.lists(st.binary(max_size=300), max_size=4),
)


def read(data: bytes) -> pb.ModelInferRequest | None:
    """None: protobuf refuses it."""
    try:
        return pb.ModelInferRequest.FromString(data)
    except DecodeError:
        return None


def read_apart(data: bytes) -> pb.ModelInferRequest | None:
    found = split(data)
    assert found is not None
    rest, raw = found
    if (request := read(rest)) is not None:
        assert not request.raw_input_contents
        request.raw_input_contents.extend(map(bytes, raw))
    return request


@given(messages)
def test_a_request_is_read_as_protobuf_reads_it(message: pb.ModelInferRequest) -> None:
    assert read_apart(message.SerializeToString()) == message


@given(messages, st.binary(max_size=30), st.integers(0, 1000), st.integers(0, 20))
def test_broken_bytes_are_protobufs_to_judge_or_read_as_it_does(
    message: pb.ModelInferRequest, noise: bytes, at: int, cut: int
) -> None:
    whole = message.SerializeToString()
    data = whole[: at % (len(whole) + 1)] + noise + whole[at % (len(whole) + 1) + cut :]
    if split(data) is not None:
        assert read_apart(data) == read(data)


def test_no_message_is_looked_through_for_long() -> None:
    assert split(pb.ModelInferRequest(raw_input_contents=[b""] * MOST_FIELDS).SerializeToString()) is None
