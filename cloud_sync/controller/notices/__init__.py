"""Notices: others are told of the fleet's events, by webhooks and by MQTT.

The events' table is the outbox, and each receiver has its place in it: every event is delivered at least once
and in order, however often the receiver or the controller dies. A notice's id tells repeats.
"""

from cloud_sync.controller.notices.delivery import Delivery
from cloud_sync.controller.notices.hooks import Hooks

__all__ = ["Delivery", "Hooks"]
