"""Rate limits by sender: which buckets are whose."""

from __future__ import annotations

from agent.admission import Bucket
from agent.config import RateLimit, Settings
from agent.errors import RateLimited

MANY = 4096  # senders remembered; beyond, those with full buckets are forgotten


class Limits:
    """Senders are "http:<key name>", "mqtt:<sender>" and "local"; both kinds of bucket must have enough."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys: dict[str, RateLimit] = {f"http:{key.name}": key for key in settings.api_keys}
        self._buckets: dict[str, tuple[Bucket | None, Bucket | None]] = {}
        self._made_for = self._limits()

    def check(self, sender: str, count: int, tokens: float, now: float) -> None:
        """So many requests of together about so many tokens. Raises RateLimited with the seconds to wait."""
        requests, budget = self._of(sender, now)
        wait = max(
            requests.wait(count, now) if requests else 0.0, budget.wait(tokens, now) if budget else 0.0
        )
        if wait > 0:
            raise RateLimited(f"the rate limit of {sender!r} is reached", retry_after=wait)

    def charge(self, sender: str, count: int, tokens: float, now: float) -> None:
        """What was checked comes in."""
        requests, budget = self._of(sender, now)
        if requests:
            requests.take(count, now)
        if budget:
            budget.take(tokens, now)

    def settle(self, sender: str, estimated: float, used: float, now: float) -> None:
        """What a Request cost in the end, in place of what was estimated."""
        _, budget = self._of(sender, now)
        if budget:
            budget.take(used - estimated, now)

    def _limits(self) -> tuple[RateLimit, RateLimit]:
        """As they are set now."""
        return self._settings.anonymous_limit, self._settings.mqtt_sender_limit

    def _of(self, sender: str, now: float) -> tuple[Bucket | None, Bucket | None]:
        if (limits := self._limits()) != self._made_for:
            self._made_for, self._buckets = limits, {}
        if sender not in self._buckets:
            if len(self._buckets) >= MANY:
                self._forget(now)
            limit = self._limit(sender)
            self._buckets[sender] = (
                Bucket(limit.requests_per_minute, now) if limit.requests_per_minute else None,
                Bucket(limit.tokens_per_minute, now) if limit.tokens_per_minute else None,
            )
        return self._buckets[sender]

    def _limit(self, sender: str) -> RateLimit:
        if sender.startswith("mqtt:"):
            return self._settings.mqtt_sender_limit
        if sender == "local":  # the agent's own user, by the unix socket
            return RateLimit()
        return self._keys.get(sender, self._settings.anonymous_limit)

    def _forget(self, now: float) -> None:
        self._buckets = {
            sender: buckets
            for sender, buckets in self._buckets.items()
            if any(bucket and not bucket.full(now) for bucket in buckets)
        }
