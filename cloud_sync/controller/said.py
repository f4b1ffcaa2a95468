"""What a node can say of itself, and what follows from it: decisions alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_sync.controller.places import Place
from cloud_sync.identity import Holder
from cloud_sync.messages import Report


@dataclass(frozen=True, slots=True)
class Reported:
    holder: Holder
    address: str
    report: Report


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream of hints."""

    holder: Holder
    address: str
    stream: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A stream of hints, not by this controller's wish."""

    holder: Holder
    address: str
    stream: str


Said = Reported | Opened | Dropped
MOST_AHEAD = 1000  # epochs: each restore of a backup begins one


def is_credible(report: Report, epoch: int) -> bool:
    """Whether some backup could explain its epoch: to the highest that there is, none could follow."""
    return report.epoch <= epoch + MOST_AHEAD


def is_ahead(one: Reported, places: Mapping[str, Place], epoch: int) -> bool:
    """The node knows a document that this controller never made: it was restored from a backup."""
    return (one.report.epoch, one.report.generation) > (epoch, places[one.holder.node].generation)


def is_cloned(place: Place, report: Report) -> bool:
    """Take note of the boot that speaks; True: one that was over speaks again, so there are two machines.

    One request of an agent that was killed may come late, with the number after the last that was heard.
    """
    if report.boot == place.former_boot and report.number > place.former_number:
        return True
    if report.boot == place.boot:
        place.number = max(place.number, report.number)
    elif report.boot != place.former_boot:
        place.former_boot, place.former_number = place.boot, place.number + 1
        place.boot, place.number = report.boot, report.number
    return False
