"""A small OpenID Connect issuer in the test's process: discovery, keys, and tokens that PyJWT makes."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from tests.support.agent import free_port


class Issuer:
    """On loopback; `stop` and `start` keep its address, `rotate` gives it another key."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.fetched = 0  # times that its keys were asked for
        self.approved = False
        self.refresh = 0
        self.claims: dict[str, Any] = {}  # of the tokens that it gives to who logs in
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.rotate()
        self.start()

    def approve(self) -> None:
        """Who logs in by another device confirms the code."""
        self.approved = True

    def rotate(self) -> None:
        self.kid = f"key-{len(self.keys)}"
        self.keys = {**self.keys, self.kid: rsa.generate_private_key(65537, 2048)}

    def withdraw(self) -> None:
        """The newest key is none of its any longer."""
        self.keys.popitem()
        self.kid = list(self.keys)[-1]

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def jwks(self) -> dict[str, Any]:
        return {
            "keys": [
                {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}
                for kid, key in self.keys.items()
            ]
        }

    def token(self, audience: str, *, kid: str | None = None, life_s: float = 300, **claims: Any) -> str:
        """For `sub` "ann" unless told."""
        now = int(time.time())
        told = {
            "iss": self.url,
            "aud": audience,
            "sub": "ann",
            "iat": now,
            "exp": now + int(life_s),
            **claims,
        }
        return jwt.encode(told, self.keys[kid or self.kid], "RS256", {"kid": kid or self.kid})

    def forgeries(self, audience: str, **claims: Any) -> list[str]:
        """Tokens of who has the public key alone: without a signature, and with the key as HMAC's secret."""
        told = {"iss": self.url, "aud": audience, "sub": "ann", "exp": int(time.time()) + 300, **claims}
        public = self.keys[self.kid].public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        head, body = (_base64(json.dumps(one).encode()) for one in ({"alg": "HS256", "kid": self.kid}, told))
        mac = hmac.digest(pem, f"{head}.{body}".encode(), "sha256")
        return [jwt.encode(told, "", "none", {"kid": self.kid}), f"{head}.{body}.{_base64(mac)}"]

    def _answer(self, path: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "token_endpoint": f"{self.url}/token",
                "device_authorization_endpoint": f"{self.url}/device",
            }
        if path == "/keys":
            self.fetched += 1
            return self.jwks()
        return None

    def _posted(self, path: str, fields: dict[str, str]) -> tuple[int, Any]:
        if fields.get("client_id") != "cli":
            return 401, {"error": "invalid_client"}
        if path == "/device":
            about = {"verification_uri": f"{self.url}/activate", "interval": 0.1, "expires_in": 60}
            return 200, {"device_code": "device", "user_code": "WDJB-MJHT", **about}
        if fields.get("device_code") == "device" and not self.approved:
            return 400, {"error": "authorization_pending"}
        if fields.get("device_code", fields.get("refresh_token")) not in ("device", str(self.refresh)):
            return 400, {"error": "invalid_grant"}
        self.refresh += 1
        token = self.token("autoglm-controller", jti=str(self.refresh), **self.claims)
        return 200, {"access_token": token, "expires_in": 1, "refresh_token": str(self.refresh)}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = issuer._answer(self.path)
                self._say(404 if found is None else 200, found)

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["content-length"])).decode()
                self._say(*issuer._posted(self.path, dict(parse_qsl(form))))

            def _say(self, status: int, found: Any) -> None:
                body = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
