"""An issuer of tokens that answers nonsense: its good keys count, and nothing ends."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from cloud_sync.issuer import BadToken, Issuer
from tests.support.oidc import Issuer as Server


class Careless(Server):
    def jwks(self) -> dict[str, Any]:
        odd = {"kid": "odd", "kty": "RSA", "alg": ["RS256"], "n": "AQAB", "e": "AQAB"}
        return {"keys": ["none", None, odd, *super().jwks()["keys"]]}


async def test_what_is_no_key_is_passed_over(tmp_path: Path) -> None:
    server = await asyncio.to_thread(Careless)
    issuer = Issuer(server.url, "here", cache=tmp_path / "keys.json")
    running = asyncio.create_task(issuer.run())
    try:
        assert (await issuer.claims(server.token("here")))["sub"] == "ann"
        told = {"iss": server.url, "aud": "here", "sub": "ann", "exp": int(time.time()) + 60}
        key = rsa.generate_private_key(65537, 2048)
        with pytest.raises(BadToken):
            await issuer.claims(jwt.encode(told, key, "RS256", {"kid": "odd"}))
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.to_thread(server.stop)
