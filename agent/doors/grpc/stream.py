"""ModelStreamInfer: many Inferences by one call, answered in the order in which they were asked.

That is Triton's order for models that answer each request once. They run at once all the same, up to WINDOW
of them; beyond, the client's next requests wait in the connection. An error is an answer: the stream goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog

from agent.access import Caller
from agent.doors.grpc import oip_pb2 as pb
from agent.doors.grpc.asked import parse_asked
from agent.doors.grpc.guard import Context
from agent.doors.grpc.infer import infer
from agent.doors.node_face import Node
from agent.errors import AgentError

WINDOW = 32

log = structlog.get_logger()

_Task = asyncio.Task[pb.ModelStreamInferResponse]


async def converse(node: Node, requests: AsyncIterator[bytes], caller: Caller, context: Context) -> None:
    """Until the client has no more requests and has all answers."""
    asked: asyncio.Queue[_Task | None] = asyncio.Queue()
    room = asyncio.Semaphore(WINDOW)

    async def tell() -> None:
        while (task := await asked.get()) is not None:
            await context.write(await task)
            room.release()

    async with asyncio.TaskGroup() as group:
        group.create_task(tell())
        async for data in requests:
            await room.acquire()
            asked.put_nowait(group.create_task(_answer(node, data, caller, context)))
        asked.put_nowait(None)


async def _answer(node: Node, data: bytes, caller: Caller, context: Context) -> pb.ModelStreamInferResponse:
    """Each answer is the last one of its request, and says so, as Triton's do."""
    id, problem = "", ""
    try:
        asked = parse_asked(data)
        id = asked.request.id
        found = await infer(node, asked, caller, context)
    except AgentError as error:
        found, problem = pb.ModelInferResponse(id=id), error.message
    except Exception:
        log.exception("a request of a grpc stream failed")
        found, problem = pb.ModelInferResponse(id=id), "Something went wrong inside the node."
    found.parameters["triton_final_response"].bool_param = True
    return pb.ModelStreamInferResponse(error_message=problem, infer_response=found)
