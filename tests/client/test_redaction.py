"""The API key in text that others have written."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote

import pytest

from airflow_provider_talkable import Outcome, Refund
from airflow_provider_talkable.client.redaction import Redaction
from airflow_provider_talkable.sandbox import Canned, Sandbox
from tests.conftest import Clients

# Each form of it differs from the others.
SECRET = """i9uil7n+Qg/Dju'cCi=TJu%41&"~\\"""
FULL = Refund.parse("B00K2EOONI", site_slug="my-store")
PARTIAL = Refund.parse("B00K2EOONI", site_slug="my-store", refund_subtotal=30)


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


FORMS = {
    "plain": SECRET,
    "lower case": SECRET.lower(),
    "upper case": SECRET.upper(),
    "in a URL": quote(SECRET, safe=""),
    "in a URL in a URL": quote(quote(SECRET, safe=""), safe=""),
    "in HTML": html.escape(SECRET),
    "in HTML in HTML": html.escape(html.escape(SECRET)),
    "in JSON": json.dumps(SECRET)[1:-1],
    "in JSON in JSON": json.dumps(json.dumps(SECRET))[3:-3],
    "in Python": repr(SECRET)[1:-1],
    "as \\u0069": "".join(f"\\u{ord(letter):04x}" for letter in SECRET),
    "as \\u{69}": "".join(f"\\u{{{ord(letter):X}}}" for letter in SECRET),
    "as %69": "".join(f"%{ord(letter):02X}" for letter in SECRET),
    "as &#105;": "".join(f"&#{ord(letter)};" for letter in SECRET),
    "as &#x69;": "".join(f"&#x{ord(letter):x};" for letter in SECRET),
    "Base64": basic(f"{SECRET}:"),
    "Base64 without what fills it up": basic(f"{SECRET}:").rstrip("="),
    "Base64 without the colon": basic(SECRET),
    "Base64 in lower case": basic(f"{SECRET}:").lower(),
    "Base64 in a URL": quote(basic(f"{SECRET}:"), safe=""),
    "Base64 for URLs": base64.urlsafe_b64encode(f"{SECRET}:".encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_the_key_is_taken_out(form: str) -> None:
    redaction = Redaction(SECRET)
    assert redaction.text(f"before {form} after {form}") == "before *** after ***"
    assert redaction.is_suspect(f'{{"message": "{form}"}}'.encode())


def test_what_is_not_the_key_stays() -> None:
    redaction = Redaction(SECRET)
    for text in (SECRET[:-1], SECRET[1:], basic(SECRET)[4:], "", "\\" * 100_000, "&amp;" * 1_000):
        assert redaction.text(text) == text


def test_it_is_taken_out_of_all_that_json_holds() -> None:
    held = {"a": [{"b": SECRET, SECRET: 1}, 2.5, None, True], "c": "d"}
    assert Redaction(SECRET).value(held) == {"a": [{"b": "***", "***": 1}, 2.5, None, True], "c": "d"}


def everything_shown(sandbox: Sandbox, clients: Clients, answers: list[Canned]) -> list[str]:
    """Refund once for each of the answers, and collect what results and errors say."""
    client = clients(sandbox, api_key=SECRET, max_attempts=1)
    shown = []
    for answer in answers:
        sandbox.dials.next(answer)
        result = client.refund(FULL)
        shown += [repr(result), json.dumps(result.as_dict()), str(result.error), repr(result.error)]
    return shown


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_is_quoted_in_an_answer_goes_no_further(
    sandbox: Sandbox, clients: Clients, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    caplog.set_level("DEBUG")
    refused = {"ok": False, "error_message": f"bad key {form}"}
    taken = {
        "ok": True,
        "result": {"origin": {"order_number": FULL.origin_slug, "coupon_code": form, f"x {form}": [form]}},
    }
    in_a_header = quote(form, safe="/:@%&=+\\")
    answers = [
        *(Canned(status, json.dumps(refused).encode()) for status in (200, 400, 401, 422, 500)),
        Canned(500, "".join(f"\\u{ord(c):04x}" if c.isalpha() else c for c in json.dumps(refused)).encode()),
        Canned(200, json.dumps(refused).encode("utf-16")),
        Canned(200, json.dumps(taken).encode()),
        Canned(302, headers={"Location": f"https://other.example/?key={in_a_header}"}),
        Canned(200, b"no JSON", {"Content-Type": f"text/html; key={in_a_header}"}),
    ]
    shown = everything_shown(sandbox, clients, answers)
    for text in (*shown, *(record.getMessage() for record in caplog.records)):
        for quoted in (form, in_a_header, json.dumps(form)[1:-1], repr(form)[1:-1]):
            assert quoted not in text
    # What is not the key is passed on.
    assert any("bad key ***" in text for text in shown)
    assert any("other.example" in text for text in shown)


@pytest.mark.parametrize("key", ["refunded", "order_number", '"ok": true', "true, \\"])
def test_a_body_is_read_as_it_came(sandbox: Sandbox, clients: Clients, key: str) -> None:
    key = key.replace(" ", "").replace(":", "").ljust(8, "x")
    sandbox.api_key = key
    client = clients(sandbox, api_key=key)
    assert client.refund(PARTIAL).outcome is Outcome.REFUNDED
    result = client.refund(FULL)
    assert result.outcome in (Outcome.REFUNDED, Outcome.ALREADY_REFUNDED)
