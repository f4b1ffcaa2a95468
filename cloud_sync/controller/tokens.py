"""Bearer tokens that the controller's own key signs: JWTs, for itself or for the doors of its agents."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from jwt.algorithms import ECAlgorithm

from cloud_sync.controller.errors import Unauthorised

ALGORITHM = "ES256"
AUDIENCE = "autoglm-controller"
AGENTS = "autoglm-agent"
"""The audience of tokens for agents' doors: a node that is shown one cannot use it at the controller."""
ISSUER = "autoglm-controller"
LIFE_S = 900.0
LEEWAY_S = 30.0

Role = Literal["viewer", "operator", "admin"]
RANK: dict[str, int] = {"viewer": 0, "operator": 1, "admin": 2}


def sign(
    key: bytes,
    subject: str,
    role: Role,
    now: float,
    life_s: float = LIFE_S,
    *,
    audience: str = AUDIENCE,
    issuer: str = ISSUER,
    **more: Any,
) -> str:
    """`key`: the private one, PEM."""
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "roles": [role],
        "iat": int(now),
        "exp": int(now + life_s),
        **more,
    }
    return jwt.encode(claims, key, ALGORITHM, {"kid": public_jwk(key)["kid"]})


def verified(key: bytes, token: str) -> dict[str, Any]:
    """Its claims. `key`: the private one, PEM; who has it is the issuer, under any name. Unauthorised."""
    try:
        found: dict[str, Any] = jwt.decode(
            token,
            _public(key),
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            leeway=LEEWAY_S,
            options={"require": ["exp", "sub", "aud", "iss"]},
        )
    except jwt.ExpiredSignatureError:
        raise Unauthorised("token_expired", "this token is over: log in again") from None
    except jwt.PyJWTError:
        raise Unauthorised("bad_token", "this token is not valid here") from None
    return found


def public_jwk(key: bytes) -> dict[str, str]:
    """For verifiers (RFC 7517); its `kid` is its thumbprint (RFC 7638). `key`: the private one, PEM."""
    made: dict[str, str] = ECAlgorithm.to_jwk(_public(key), as_dict=True)
    plain = {name: made[name] for name in ("crv", "kty", "x", "y")}
    thumb = hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).digest()
    kid = base64.urlsafe_b64encode(thumb).rstrip(b"=").decode()
    return {**plain, "kid": kid, "alg": ALGORITHM, "use": "sig"}


def role(roles: object) -> Role | None:
    """The highest that is known."""
    found = [one for one in roles if one in RANK] if isinstance(roles, list) else []
    return max(found, key=RANK.__getitem__, default=None)


def lower(one: Role, other: Role) -> Role:
    return min(one, other, key=RANK.__getitem__)


def _public(key: bytes) -> EllipticCurvePublicKey:
    found = serialization.load_pem_private_key(key, None).public_key()
    assert isinstance(found, EllipticCurvePublicKey)  # noqa: S101 - it was made so
    return found
