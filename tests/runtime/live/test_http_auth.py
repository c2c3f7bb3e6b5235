"""Challenges of HTTP servers, as the RFCs and cameras have them."""

from __future__ import annotations

import base64
import re

import pytest

from dkcam.runtime.live import http_auth
from dkcam.runtime.live.http_auth import authorization, challenges_of

# RFC 7616, 3.9.1: two challenges, and their answers
REALM = 'realm="http-auth@example.org", qop="auth, auth-int", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"'
OPAQUE = 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
CLIENT = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
ANSWERS = {"SHA-256": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", "MD5": "8ca523f5e9506fed4657c9700eebdbec"}


@pytest.mark.parametrize("kinds", [["SHA-256"], ["MD5"], ["MD5", "SHA-256"]])
@pytest.mark.parametrize("in_one", [True, False])
def test_the_rfc_s_own_example(kinds: list[str], in_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_auth.secrets, "token_hex", lambda size: CLIENT)
    headers = [f"Digest {REALM}, algorithm={kind}, {OPAQUE}" for kind in kinds]
    answer = authorization([", ".join(headers)] if in_one else headers, "Mufasa", "Circle of Life", "GET", "/dir/index.html")
    assert answer is not None and f'response="{ANSWERS[kinds[-1]]}"' in answer and f"algorithm={kinds[-1]}" in answer
    assert OPAQUE in answer and "qop=auth" in answer and "nc=00000001" in answer


def test_the_older_form_without_qop() -> None:
    """RFC 2069's example, with the digest that its errata gives."""
    challenge = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    answer = authorization([challenge], "Mufasa", "CircleOfLife", "GET", "/dir/index.html")
    assert answer is not None and 'response="1949323746fe6a43ef61f9606e7febea"' in answer and "qop" not in answer


@pytest.mark.parametrize(
    ("headers", "begins"),
    [
        (['Basic realm="a, Digest nonce=b"'], "Basic "),
        (["Bearer", 'Basic realm="x"'], "Basic "),
        (['Bearer realm="x", Basic realm="y"'], "Basic "),
        (['Digest realm="x", nonce="n", stale, qop="auth-int, auth"'], "Digest "),
        (['Digest realm="x", nonce="n", algorithm=MD5-sess, qop="auth"'], "Digest "),
        (['digest REALM="x", NONCE=n'], "Digest "),
        (['Digest realm="x", nonce="n", algorithm=SHA-512-256', 'Basic realm="x"'], "Basic "),
    ],
)
def test_the_first_that_can_be_answered(headers: list[str], begins: str) -> None:
    answer = authorization(headers, "me", "pw", "GET", "/")
    assert answer is not None and answer.startswith(begins)


@pytest.mark.parametrize("headers", [[], ["Bearer"], ["Negotiate"], ["Digest realm=x"], [","], ['"'], ["=" * 50]])
def test_what_cannot_be_answered(headers: list[str]) -> None:
    assert authorization(headers, "me", "pw", "GET", "/") is None


def test_words_are_quoted() -> None:
    answer = authorization(['Digest realm="a \\"b\\" c", nonce="n"'], 'm"e', "pw", "GET", "/")
    assert answer is not None and 'username="m\\"e"' in answer and challenges_of(answer)[0][1]["realm"] == 'a "b" c'
    basic = authorization(["Basic"], "mé", "p:w", "GET", "/")
    assert basic is not None and base64.b64decode(basic[6:]).decode() == "mé:p:w" and re.fullmatch(r"Basic [A-Za-z0-9+/=]+", basic)
