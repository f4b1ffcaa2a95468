"""The controller's parts, connected."""

from __future__ import annotations

import asyncio

from cloud_sync.controller.accounts import Accounts
from cloud_sync.controller.answers import Answers
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.fleet import Fleet
from cloud_sync.controller.foreign import Foreign
from cloud_sync.controller.hints import Hints
from cloud_sync.controller.joining import Joining
from cloud_sync.controller.keys import Keys
from cloud_sync.controller.leaving import Leaving
from cloud_sync.controller.logins import Logins
from cloud_sync.controller.notices import Delivery, Hooks
from cloud_sync.controller.passwords import Passwords
from cloud_sync.controller.reports import Reports
from cloud_sync.controller.store import Store
from cloud_sync.controller.telemetry.core import FleetTelemetry
from cloud_sync.controller.watch import Watch


class Controller:
    def __init__(self, settings: ControllerSettings, store: Store, keys: Keys) -> None:
        self.settings, self.store, self.keys = settings, store, keys
        self.joining = Joining(store, keys.authority, settings)
        self.reports = Reports(store, settings)
        self.leaving = Leaving(store)
        self.fleet = Fleet(store, settings)
        self.hints = Hints(store)
        self.answers = Answers(store)
        self.hooks = Hooks(store)
        self.delivery = Delivery(store, self.hooks, settings.notices_mqtt_url)
        self.watch = Watch(store, self.reports, self.answers)
        self.telemetry = FleetTelemetry(store, settings)
        passwords = Passwords()
        self.accounts = Accounts(store, passwords)
        self.logins = Logins(store, passwords, keys.signing, settings)
        self.foreign = Foreign(settings, store, self.accounts) if settings.oidc_issuer else None

    async def run(self) -> None:
        """What it does beside answering."""
        async with asyncio.TaskGroup() as group:
            for part in (self.hints, self.watch, self.delivery, self.telemetry):
                group.create_task(part.run())
            if self.foreign is not None:
                group.create_task(self.foreign.run())
