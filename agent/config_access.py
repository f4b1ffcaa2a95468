"""Settings of who may enter by HTTP and gRPC: API keys, and JWTs of an issuer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from cloud_sync.issuer import is_safe


def _is_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise ValueError("must be 1 to 64 letters of A-Z a-z 0-9 . _ -")
    return value


def _is_digest(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError('must be 64 hexadecimal digits: printf %s "$KEY" | sha256sum')
    return value


Name = Annotated[str, AfterValidator(_is_name)]
Digest = Annotated[str, AfterValidator(_is_digest)]


class RateLimit(BaseModel):
    """Token buckets of one caller; None is no limit. A burst of one minute's worth is allowed."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)


class ApiKey(RateLimit):
    """One `[[api_keys]]` table. `sha256` is the hex digest of the key, so that the file holds no secret."""

    name: Name
    key: SecretStr | None = None
    sha256: Digest | None = None
    models: list[str] | None = None  # None: all
    admin: bool = False  # may pull and swap models

    @model_validator(mode="after")
    def _can_be_shown(self) -> ApiKey:
        if not self.sha256 and not (self.key and self.key.get_secret_value()):
            raise ValueError(f"the key named {self.name!r} needs `sha256` or `key`")
        return self


class JwtSettings(BaseModel):
    """Whose JWTs are accepted beside API keys, and what their claims mean."""

    jwt_issuer: str | None = None  # its URL; None: no JWTs
    jwt_jwks_url: str | None = None  # None: found by discovery
    jwt_audience: str = "autoglm-agent"
    jwt_ca_file: Path | None = None  # None: the system's store
    jwt_user_claim: str = "sub"
    jwt_tenant_claim: str = "tenant"
    jwt_role_claim: str = "roles"  # `realm_access.roles`: within an object
    jwt_role: str | None = None  # that a caller must have; None: a valid token is enough
    jwt_admin_role: str = "admin"
    jwt_limit: RateLimit = RateLimit()  # of each user
    jwt_tenant_limit: RateLimit = RateLimit()  # of all users of a tenant together

    @field_validator("jwt_issuer", "jwt_jwks_url")
    @classmethod
    def _is_safe(cls, value: str | None) -> str | None:
        if value is not None and not is_safe(value):
            raise ValueError("must begin with https:// (http:// on this machine alone)")
        return value
