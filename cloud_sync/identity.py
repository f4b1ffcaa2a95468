"""Keys, requests and certificates: who a node is. Bytes in, bytes out; no I/O, and the time is handed in.

Keys are on P-256. A node's certificate says its id as common name; a controller's says where it is found.
All times are wall clock, in seconds; a certificate begins somewhat earlier, for clocks that are behind.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = 86400.0
CA_LIFE_S = 20 * 365 * DAY
EARLIER_S = DAY  # a certificate is good from so long before it is made
_SHA = hashes.SHA256()
Key = ec.EllipticCurvePrivateKey


class BadIdentity(Exception):
    """It is no certificate or request, or it is not signed as it should be."""


@dataclass(frozen=True, slots=True)
class Holder:
    """What a verified certificate says."""

    node: str
    serial: str  # hexadecimal
    not_after: float


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA: its certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)

    def issue_node(self, csr: bytes, node: str, now: float, life_s: float) -> tuple[bytes, Holder]:
        """A client certificate (PEM) for the key of `csr`, whose own names count for nothing. BadIdentity."""
        builder = self._begin(node, _public_key(csr), now, life_s)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        made = builder.sign(_load_key(self.key), _SHA)
        return made.public_bytes(serialization.Encoding.PEM), _holder(made)

    def issue_server(self, key: bytes, hosts: Sequence[str], now: float, life_s: float) -> bytes:
        """A server's certificate (PEM) for these names and addresses."""
        builder = self._begin(hosts[0], _load_key(key).public_key(), now, life_s)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        names = x509.SubjectAlternativeName(map(_general_name, dict.fromkeys(hosts)))
        made = builder.add_extension(names, False).sign(_load_key(self.key), _SHA)
        return made.public_bytes(serialization.Encoding.PEM)

    def holder(self, certificate: bytes) -> Holder:
        """Whose it is, if this CA issued it to a node; it may be over. BadIdentity."""
        return _verified(self.certificate, certificate)

    def _begin(
        self, name: str, key: ec.EllipticCurvePublicKey, now: float, life_s: float
    ) -> x509.CertificateBuilder:
        issuer = _load_certificate(self.certificate)
        return _builder(name, issuer.subject, key, now, life_s).add_extension(
            x509.BasicConstraints(ca=False, path_length=None), True
        )


def new_authority(name: str, now: float) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(name, subject, key.public_key(), now, CA_LIFE_S)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = builder.add_extension(usage, True).sign(key, _SHA)
    return Authority(made.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def new_key() -> bytes:
    """PEM, without a password."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def request(key: bytes, name: str) -> bytes:
    """A signing request (PEM) for this key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(_load_key(key), _SHA)
    return made.public_bytes(serialization.Encoding.PEM)


def key_of(csr: bytes) -> str:
    """The digest of a request's public key, hexadecimal. BadIdentity."""
    data = _public_key(csr).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(data).hexdigest()


def prove(key: bytes, csr: bytes) -> str:
    """That the holder of `key` wants what `csr` asks for: a signature, base64."""
    return base64.b64encode(_load_key(key).sign(_renewal(csr), ec.ECDSA(_SHA))).decode()


def is_proven(certificate: bytes, csr: bytes, proof: str) -> bool:
    """Whether the certificate's key made this proof."""
    public = _load_certificate(certificate).public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        return False
    try:
        public.verify(base64.b64decode(proof, validate=True), _renewal(csr), ec.ECDSA(_SHA))
    except (ValueError, InvalidSignature):
        return False
    return True


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (PEM), hexadecimal. BadIdentity."""
    try:
        return _load_certificate(certificate).fingerprint(_SHA).hex()
    except ValueError:
        raise BadIdentity("it is no certificate") from None


def alone(certificate: bytes) -> bytes:
    """The certificate (PEM) that `fingerprint` tells of, without what else stands there. BadIdentity."""
    try:
        return _load_certificate(certificate).public_bytes(serialization.Encoding.PEM)
    except ValueError:
        raise BadIdentity("it is no certificate") from None


def check_pair(pair: bytes, ca: bytes) -> None:
    """That a key and a certificate (PEM) are whole and belong together and to this CA. BadIdentity."""
    try:
        key, one = _load_key(pair), _load_certificate(pair)
        one.verify_directly_issued_by(_load_certificate(ca))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise BadIdentity("the key or the certificate is damaged") from error
    if one.public_key() != key.public_key():
        raise BadIdentity("the certificate is another key's")


def life(certificate: bytes) -> tuple[float, float]:
    """From when to when a certificate is good."""
    one = _load_certificate(certificate)
    return one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp()


@lru_cache(maxsize=16384)
def _verified(ca: bytes, certificate: bytes) -> Holder:
    """What was found once stays so: nodes show the same certificate with each request. BadIdentity."""
    try:
        one = _load_certificate(certificate)
        one.verify_directly_issued_by(_load_certificate(ca))
    except (ValueError, TypeError, InvalidSignature):
        raise BadIdentity("this controller did not issue this certificate") from None
    try:
        usage = one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:  # the CA's own
        raise BadIdentity("it is no node's certificate") from None
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise BadIdentity("it is no node's certificate")
    return _holder(one)


def _renewal(csr: bytes) -> bytes:
    return b"autoglm renewal\n" + csr


def _public_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    try:
        asked = x509.load_pem_x509_csr(csr)
        signed = asked.is_signature_valid
        public = asked.public_key()
    except (ValueError, TypeError):
        raise BadIdentity("it is no signing request (PEM)") from None
    if not signed or not isinstance(public, ec.EllipticCurvePublicKey):
        raise BadIdentity("the signing request must be signed by a key on P-256")
    if public.curve.name != "secp256r1":
        raise BadIdentity("the signing request must be signed by a key on P-256")
    return public


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, life_s: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now - EARLIER_S, UTC))
        .not_valid_after(datetime.fromtimestamp(now + life_s, UTC))
    )


def _holder(one: x509.Certificate) -> Holder:
    [name] = one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Holder(str(name.value), f"{one.serial_number:x}", one.not_valid_after_utc.timestamp())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _load_certificate(data: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(data)


def _load_key(data: bytes) -> Key:
    key = serialization.load_pem_private_key(data, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadIdentity("it is no key on an elliptic curve")
    return key


def _key_pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
