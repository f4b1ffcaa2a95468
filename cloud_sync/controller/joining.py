"""How a machine becomes a node, and stays one: join tokens, certificates, their renewal."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync import identity
from cloud_sync.controller import desired
from cloud_sync.controller.audit import Actor, record
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.errors import Conflict, Forbidden, Invalid, NotFound, Refused, Unauthorised
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.events import record_event
from cloud_sync.controller.store.tables import Certificate, JoinToken, Node
from cloud_sync.identity import Authority, BadIdentity, Holder
from cloud_sync.join_token import JoinToken as Token
from cloud_sync.messages import Join, Joined, Renew, Renewed


class Joining:
    def __init__(self, store: Store, authority: Authority, settings: ControllerSettings) -> None:
        self._store, self._authority, self._settings = store, authority, settings

    async def new_token(
        self, actor: Actor, life_s: float, labels: Mapping[str, str], replaces: str | None
    ) -> str:
        """`replaces`: the node that the machine is to become, in place of the former one. NotFound."""
        token = Token.new(self._authority.fingerprint)
        async with self._store.write() as session:
            now = self._store.now()
            former = await named(session, replaces) if replaces is not None else None
            row = JoinToken(
                id=token.id,
                digest=token.digest,
                made_by=actor.name,
                labels=dict(labels),
                replaces=former.id if former else None,
                expires_at=now + life_s,
            )
            session.add(row)
            told = {"labels": dict(labels), "life_s": life_s, "replaces": replaces}
            record(session, now, actor, "token.made", token.id, **told)
        return str(token)

    async def join(self, asked: Join, address: str) -> Joined:
        """A new node, or the same once more for the same key: it had not heard the answer. Refused."""
        key = _key_of(asked.csr)
        async with self._store.write() as session:
            now = self._store.now()
            token = await self._token(session, asked.token, key, now)
            if token.node is not None:
                node = await _joined(session, token.node, key)
            else:
                actor = Actor(f"token:{token.id}", address)
                if token.replaces is not None:
                    node = await _replaced(session, token.replaces, now)
                    record(session, now, actor, "node.replaced", node.name)
                else:
                    node = await self._new_node(session, asked, token, now)
                    record(session, now, actor, "node.joined", node.name, labels=node.labels)
                    record_event(session, now, node.name, "node.joined", {"address": address})
                token.used_at, token.used_by, token.node = now, key, node.id
            certificate = await self._issue(session, asked.csr, node.id, key, now)
        return Joined(name=node.name, certificate=certificate)

    async def renew(self, asked: Renew, address: str) -> Renewed:
        """A certificate for a new key, for whoever has the old key. Refused."""
        key = _key_of(asked.csr)
        try:
            holder = self._authority.holder(asked.certificate.encode())
        except BadIdentity as error:
            raise Unauthorised("unknown_certificate", f"{error}: join anew") from None
        if not identity.is_proven(asked.certificate.encode(), asked.csr.encode(), asked.proof):
            raise Unauthorised("not_proven", "the old key did not sign this request")
        async with self._store.write() as session:
            now = self._store.now()
            node = await standing(session, holder, for_change=True)
            if now > holder.not_after + self._settings.renewal_grace_s:
                raise Unauthorised("expired", "the certificate ended too long ago to be renewed: join anew")
            record(session, now, Actor(f"node:{node.name}", address), "certificate.renewed", node.name)
            return Renewed(certificate=await self._issue(session, asked.csr, node.id, key, now))

    async def _token(self, session: AsyncSession, text: str, key: str, now: float) -> JoinToken:
        try:
            given = Token.parse(text)
        except ValueError as error:
            raise Unauthorised("bad_token", str(error)) from None
        found = await session.get(JoinToken, given.id, with_for_update=True)
        if found is None or not secrets.compare_digest(found.digest, given.digest):
            raise Unauthorised("bad_token", "this join token is not known here")
        if found.used_at is not None and found.used_by != key:
            raise Unauthorised("token_used", "this join token was used: each is good for one machine")
        if now > found.expires_at:
            raise Unauthorised("token_expired", "this join token is too old: `autoglm cloud token` makes one")
        return found

    async def _new_node(self, session: AsyncSession, asked: Join, token: JoinToken, now: float) -> Node:
        if await session.scalar(select(Node.id).where(Node.name == asked.name)):
            raise Conflict(
                "name_taken",
                f"there is a node {asked.name!r} already: join with another --name, or in its place with"
                f" a token of `autoglm cloud token --replace {asked.name}`",
            )
        node = Node(
            id=secrets.token_hex(8), name=asked.name, labels={**asked.labels, **token.labels}, joined_at=now
        )
        session.add(node)
        await desired.settle(session, [node])
        await session.flush()
        return node

    async def _issue(self, session: AsyncSession, csr: str, node: str, key: str, now: float) -> str:
        life = self._settings.certificate_life_s
        certificate, holder = self._authority.issue_node(csr.encode(), node, now, life)
        session.add(Certificate(serial=holder.serial, node=node, key=key, not_after=holder.not_after))
        return certificate.decode()


async def named(session: AsyncSession, name: str) -> Node:
    """For a change. NotFound."""
    asked = select(Node).where(Node.name == name, Node.state != "gone").with_for_update()
    if node := await session.scalar(asked):
        return node
    raise no_such_node(name)


def no_such_node(name: str) -> NotFound:
    return NotFound("no_such_node", f"there is no node {name!r}: `autoglm cloud nodes` lists them")


async def revoke_certificates(session: AsyncSession, node: str, now: float) -> None:
    """All that were issued to the node so far."""
    mine = update(Certificate).where(Certificate.node == node, Certificate.revoked_at.is_(None))
    await session.execute(mine.values(revoked_at=now))


async def _joined(session: AsyncSession, id: str, key: str) -> Node:
    """The node that this key joined as, if it still counts: another machine may be it by now. Refused."""
    node = await session.get_one(Node, id, with_for_update=True)
    mine = select(Certificate.serial).where(Certificate.node == id, Certificate.key == key)
    counts = await session.scalar(mine.where(Certificate.revoked_at.is_(None)).limit(1))
    if why := refusal(node.state, None if counts else 0.0):
        raise why
    return node


async def _replaced(session: AsyncSession, id: str, now: float) -> Node:
    """The node, for another machine: what it is told stays, who it was counts no longer. Conflict."""
    node = await session.get_one(Node, id, with_for_update=True)
    if node.state == "gone":
        raise Conflict("no_such_node", "the node that this token was to replace is gone: join with another")
    await revoke_certificates(session, id, now)
    await desired.stir(session, node)
    node.state, node.due_at = "active", None
    node.boot = node.former_boot = ""
    node.number = node.former_number = 0
    return node


async def standing(session: AsyncSession, holder: Holder, *, for_change: bool = False) -> Node:
    """The node whose certificate this is, if it may still use it; it may be over. Refused.

    `for_change`: nobody else changes the node, or revokes its certificates, until the transaction ends.
    """
    node = await session.get(Node, holder.node, with_for_update=for_change)
    certificate = await session.get(Certificate, holder.serial)
    if certificate is None or node is None:  # issued after the backup that is in force
        raise _unknown_certificate()
    if why := refusal(node.state, certificate.revoked_at):
        raise why
    return node


def refusal(state: str | None, revoked_at: float | None) -> Refused | None:
    """Why a node in this state may not use a certificate; None as state: there is no such node."""
    if state is None:
        return _unknown_certificate()
    if state == "cloned":
        return Forbidden("cloned", "two machines use this identity: each must join anew")
    if revoked_at is not None or state not in ("active", "lost"):
        return Forbidden("revoked", "this identity was revoked: join anew")
    return None


def _unknown_certificate() -> Unauthorised:
    return Unauthorised("unknown_certificate", "this certificate is not known here: join anew")


def _key_of(csr: str) -> str:
    try:
        return identity.key_of(csr.encode())
    except BadIdentity as error:
        raise Invalid("bad_csr", str(error)) from None
