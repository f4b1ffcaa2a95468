"""Operators' bearer tokens: JWTs that the controller's own key signs."""

from __future__ import annotations

from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives import serialization

from cloud_sync.controller.errors import Unauthorised

ALGORITHM = "ES256"
AUDIENCE = "autoglm-controller"
ISSUER = "autoglm-controller"
LIFE_S = 900.0
LEEWAY_S = 30.0

Role = Literal["viewer", "operator", "admin"]
RANK = {"viewer": 0, "operator": 1, "admin": 2}


def sign(key: bytes, subject: str, role: Role, now: float, life_s: float = LIFE_S) -> str:
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "roles": [role],
        "iat": int(now),
        "exp": int(now + life_s),
    }
    return jwt.encode(claims, key, ALGORITHM)


def verified(key: bytes, token: str) -> dict[str, Any]:
    """Its claims. `key`: the private one, PEM. Unauthorised."""
    public = serialization.load_pem_private_key(key, None).public_key()
    try:
        found: dict[str, Any] = jwt.decode(
            token,
            public,  # type: ignore[arg-type]  # it is one of an elliptic curve
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=LEEWAY_S,
            options={"require": ["exp", "sub", "aud", "iss"]},
        )
    except jwt.ExpiredSignatureError:
        raise Unauthorised("token_expired", "this token is over: log in again") from None
    except jwt.PyJWTError:
        raise Unauthorised("bad_token", "this token is not valid here") from None
    return found


def rank(claims: dict[str, Any]) -> int:
    """Of the highest role; -1: none that is known."""
    roles = claims.get("roles")
    return max((RANK.get(str(one), -1) for one in roles), default=-1) if isinstance(roles, list) else -1
