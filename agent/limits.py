"""Rate limits by sender: which buckets are whose."""

from __future__ import annotations

from agent.admission import Bucket
from agent.config import Settings
from agent.config_access import RateLimit
from agent.errors import RateLimited

MANY = 4096  # senders remembered; beyond, those with full buckets are forgotten


class Limits:
    """Senders are "http:<key name>", "jwt:<tenant>/<user>", "mqtt:<sender>" and "local".

    Of each of its limits (a user has a tenant's too) both kinds of bucket must have enough.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys: dict[str, RateLimit] = {f"http:{key.name}": key for key in settings.api_keys}
        self._settings = settings
        self._buckets: dict[str, _Buckets] = {}
        self._senders: dict[str, _Shared] = {}
        self._made_for = self._set()

    def check(self, sender: str, count: int, tokens: float, now: float) -> None:
        """So many requests of together about so many tokens. Raises RateLimited with the seconds to wait."""
        for whose, buckets in self._of(sender, now):
            if (wait := buckets.wait(count, tokens, now)) > 0:
                raise RateLimited(f"the rate limit of {whose!r} is reached", retry_after=wait)

    def charge(self, sender: str, count: int, tokens: float, now: float) -> None:
        """What was checked comes in."""
        for _, buckets in self._of(sender, now):
            buckets.take(count, tokens, now)

    def settle(self, sender: str, estimated: float, used: float, now: float) -> None:
        """What a Request cost in the end, in place of what was estimated."""
        for _, buckets in self._of(sender, now):
            buckets.take(0, used - estimated, now)

    def _set(self) -> tuple[RateLimit, ...]:
        """The limits as they are now: other ones may come from the cloud."""
        here = self._settings
        return here.anonymous_limit, here.mqtt_sender_limit, here.jwt_limit, here.jwt_tenant_limit

    def _of(self, sender: str, now: float) -> _Shared:
        if (limits := self._set()) != self._made_for:
            self._made_for, self._buckets, self._senders = limits, {}, {}
        found = self._senders.get(sender)
        if found is None:
            if len(self._senders) >= MANY:
                self._forget(now)
            found = self._senders[sender] = tuple(
                (whose, self._buckets.setdefault(whose, _Buckets(limit, now)))
                for whose, limit in self._limits(sender)
                if limit.requests_per_minute or limit.tokens_per_minute
            )
        return found

    def _limits(self, sender: str) -> tuple[tuple[str, RateLimit], ...]:
        """Those that the sender is under, by whom they are shared."""
        if sender.startswith("jwt:"):
            tenant = sender.partition("/")[0]
            of_user = (sender, self._settings.jwt_limit)
            return (of_user,) if tenant == "jwt:" else (of_user, (tenant, self._settings.jwt_tenant_limit))
        if sender.startswith("mqtt:"):
            return ((sender, self._settings.mqtt_sender_limit),)
        if sender == "local":  # the agent's own user, by the unix socket
            return ()
        return ((sender, self._keys.get(sender, self._settings.anonymous_limit)),)

    def _forget(self, now: float) -> None:
        self._senders.clear()
        self._buckets = {whose: one for whose, one in self._buckets.items() if not one.full(now)}


class _Buckets:
    """Of requests and of tokens, where they are limited."""

    def __init__(self, limit: RateLimit, now: float) -> None:
        requests, tokens = limit.requests_per_minute, limit.tokens_per_minute
        self._requests = Bucket(requests, now) if requests else None
        self._tokens = Bucket(tokens, now) if tokens else None

    def wait(self, count: int, tokens: float, now: float) -> float:
        """Seconds until so much can be taken."""
        requests = self._requests.wait(count, now) if self._requests else 0.0
        return max(requests, self._tokens.wait(tokens, now) if self._tokens else 0.0)

    def take(self, count: int, tokens: float, now: float) -> None:
        if self._requests and count:
            self._requests.take(count, now)
        if self._tokens:
            self._tokens.take(tokens, now)

    def full(self, now: float) -> bool:
        return all(one is None or one.full(now) for one in (self._requests, self._tokens))


_Shared = tuple[tuple[str, _Buckets], ...]
"""What a sender takes from, by whom it is shared with."""
