"""What is nobody else's business is in no text that leaves the node."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import string

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings

from cloud_sync.settings import BadSettings, checked
from cloud_sync.telemetry.redaction import BadPattern, Redaction

REDACTION = Redaction()
FORMS = (
    *("sk-{}", "ghp_{}", "hf_{}", "AKIA{}", "Bearer {}", "Authorization: Basic {}", "https://user:{}@host/"),
    *("password={}", "api_key: {}", '"token": "{}"', "-----BEGIN PRIVATE KEY-----\n{}\n"),
)
around = st.text(max_size=40)
names = st.text(string.ascii_letters + string.digits + "._+-", min_size=1, max_size=20)
hosts = st.lists(st.text(string.ascii_lowercase, min_size=2, max_size=10), min_size=2, max_size=3)
secrets = st.text(string.ascii_letters + string.digits, min_size=8, max_size=40)


@given(around, names, hosts, around)
def test_no_mail_address_is_left(before: str, name: str, host: list[str], after: str) -> None:
    address = f"{name}@{'.'.join(host)}"
    assert address not in REDACTION.clean(f"{before} {address} {after}")


@given(around, st.text(string.digits, min_size=7, max_size=30), st.sampled_from(["", " ", "-", "."]), around)
def test_no_long_run_of_digits_is_left(before: str, digits: str, between: str, after: str) -> None:
    clean = REDACTION.clean(f"{before} {between.join(digits)} {after}")
    assert not re.search(r"\d([ .()/-]{0,2}\d){6}", clean, re.ASCII)


@given(
    around,
    st.sampled_from(FORMS),
    secrets,
)
def test_no_token_key_or_password_is_left(before: str, form: str, secret: str) -> None:
    assume(secret not in before)
    assert secret not in REDACTION.clean(f"{before} {form.format(secret)}\n")


@given(st.binary(min_size=30, max_size=60))
def test_no_signed_token_is_left(payload: bytes) -> None:
    parts = [json.dumps({"alg": "ES256"}).encode(), payload, payload]
    token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    clean = REDACTION.clean(f"I got {token}, why?")
    assert not any(part in clean for part in token.split("."))


@given(st.lists(st.text(string.ascii_lowercase + ",?!", max_size=20), max_size=10).map(" ".join))
def test_plain_words_stay_as_they_are(text: str) -> None:
    assert REDACTION.clean(text) == text


def test_what_matches_a_pattern_that_is_set_is_left_out() -> None:
    redaction = Redaction([r"Project \w+", r"(?i)acme"])
    assert redaction.clean("ACME's Project Zeus, 42") == "[redacted]'s [redacted], 42"


@settings(deadline=None)
@given(st.text(max_size=50))
def test_a_pattern_is_taken_or_refused_and_never_takes_long(pattern: str) -> None:
    with contextlib.suppress(BadPattern):
        Redaction([pattern, "(a+)+$"]).clean("a" * 10_000 + "!")


def test_a_pattern_that_is_none_is_refused_by_its_name() -> None:
    with pytest.raises(BadSettings, match=r"^redact_patterns\.1: .*'\('"):
        checked({"redact_patterns": ["fine", "("]})
