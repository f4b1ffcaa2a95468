"""What nodes report, and what they are answered. A report is the heartbeat too."""

from __future__ import annotations

from cloud_sync.controller.audit import Actor, record
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.errors import Forbidden
from cloud_sync.controller.joining import standing
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.tables import Fleet, Node
from cloud_sync.identity import Holder
from cloud_sync.messages import Answer, Desired, Report

_BESIDE = {"boot", "number", "observed_generation"}  # columns of their own


class Reports:
    def __init__(self, store: Store, settings: ControllerSettings) -> None:
        self._store, self._settings = store, settings

    async def take(self, holder: Holder, report: Report, address: str) -> Answer:
        """Keep it, and say what is to be had. Refused."""
        async with self._store.write() as session:
            now = self._store.now()
            node = await standing(session, holder)
            if cloned := _is_cloned(node, report):
                node.state = "cloned"
                record(session, now, Actor(f"node:{node.name}", address), "node.cloned", node.name)
            else:
                node.seen_at, node.address = now, address
                node.observed_generation = report.observed_generation
                node.backlog = sum(report.backlog.values())
                node.reported = report.model_dump(mode="json", exclude=_BESIDE)
                fleet = await session.get_one(Fleet, 1)
                if (report.epoch, report.generation) > (fleet.epoch, node.generation):
                    fleet.epoch = max(fleet.epoch, report.epoch) + 1  # a backup was restored: it knows more
                    record(
                        session, now, Actor(f"node:{node.name}", address), "epoch.opened", str(fleet.epoch)
                    )
        if cloned:  # and committed
            raise Forbidden("cloned", "two machines use this identity: each must join anew")
        return Answer(
            epoch=fleet.epoch, generation=node.generation, heartbeat_s=heartbeat_s(node, self._settings)
        )

    async def desired(self, holder: Holder) -> Desired:
        """Refused."""
        async with self._store.read() as session:
            node = await standing(session, holder)
            fleet = await session.get_one(Fleet, 1)
        return Desired(
            epoch=fleet.epoch,
            generation=node.generation,
            settings=node.desired,
            heartbeat_s=heartbeat_s(node, self._settings),
        )


def heartbeat_s(node: Node, settings: ControllerSettings) -> float:
    """How often the node is to report."""
    return float(node.desired.get("heartbeat_s") or settings.heartbeat_s)


def _is_cloned(node: Node, report: Report) -> bool:
    """Take note of the boot that speaks; True: one that was over speaks again, so there are two machines.

    One request of an agent that was killed may come late, with the number after the last that was heard.
    """
    if report.boot == node.former_boot and report.number > node.former_number:
        return True
    if report.boot == node.boot:
        node.number = max(node.number, report.number)
    elif report.boot != node.former_boot:
        node.former_boot, node.former_number = node.boot, node.number + 1
        node.boot, node.number = report.boot, report.number
    return False
