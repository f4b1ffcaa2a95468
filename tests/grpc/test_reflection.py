"""Clients learn the calls from the door itself, as grpcurl does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from tests.grpc.conftest import address
from tests.support.agent import Agent

NAME = "inference.GRPCInferenceService"


@pytest.fixture
def channel(guarded_grpc: Agent) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address(guarded_grpc)) as channel:
        yield channel


def test_all_services_are_listed_to_anyone(channel: grpc.Channel) -> None:
    listed = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert set(listed) == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


def test_a_client_that_knows_nothing_can_make_a_call(channel: grpc.Channel) -> None:
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName(NAME)
    assert {"ModelInfer", "ModelStreamInfer", "RepositoryIndex"} <= set(service.methods_by_name)
    method = service.methods_by_name["ModelMetadata"]
    assert not method.client_streaming
    ask, answer = (message_factory.GetMessageClass(one) for one in (method.input_type, method.output_type))
    call = channel.unary_unary(
        f"/{NAME}/ModelMetadata", lambda asked: asked.SerializeToString(), answer.FromString
    )
    told = call(ask(name="wide"), metadata=[("authorization", "Bearer key-all")])
    assert [one.name for one in told.inputs] == ["x"]


def test_what_is_not_there_is_told_and_the_stream_goes_on(channel: grpc.Channel) -> None:
    asked = [pb.ServerReflectionRequest(file_containing_symbol=one) for one in ("no.Such", NAME)]
    first, second = ServerReflectionStub(channel).ServerReflectionInfo(iter(asked))
    assert first.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    file = descriptor_pb2.FileDescriptorProto.FromString(
        second.file_descriptor_response.file_descriptor_proto[0]
    )
    assert file.package == "inference"


def silent(over: threading.Event) -> Iterator[bytes]:
    """Requests of a client that has opened a call and sends nothing."""
    over.wait(60)
    yield from ()


@pytest.mark.parametrize("call", ["ModelInfer", "ModelMetadata", "RepositoryIndex"])
def test_a_request_that_does_not_arrive_ends_its_call(channel: grpc.Channel, call: str) -> None:
    over = threading.Event()
    try:
        asked = channel.stream_unary(f"/{NAME}/{call}")
        with pytest.raises(grpc.RpcError) as caught:
            asked(silent(over), metadata=[("authorization", "Bearer key-all")], timeout=60)
    finally:
        over.set()
    error = caught.value
    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details() == "the request did not arrive within 3 s"


def test_a_call_without_any_request_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(f"/{NAME}/ModelInfer")(iter([]), metadata=[("authorization", "Bearer key-all")])
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_idle_reflection_gives_its_place_back_and_a_watched_health_does_not(channel: grpc.Channel) -> None:
    over = threading.Event()
    watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert next(watched).status
    try:
        with pytest.raises(grpc.RpcError) as caught:
            list(ServerReflectionStub(channel).ServerReflectionInfo(silent(over), timeout=60))
    finally:
        over.set()
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.details() == "nothing was asked for too long"
    assert watched.is_active()
    watched.cancel()
