"""Keeping the API key out of whatever is shown: some proxies' pages quote the request they refuse."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar
from urllib.parse import unquote

T = TypeVar("T")

MASK = "***"

_FOR_URLS = str.maketrans("+/", "-_")  # what Base64 for URLs writes instead
_BACKSLASHED = re.compile(r"\\(?:u\{([0-9a-f]{1,6})\}|u([0-9a-f]{4})|x([0-9a-f]{2})|(.))", re.I | re.S)
_MOST_READINGS = 100
_SHORTEST = 6  # fewer letters are found by chance


class Redaction:
    """Replaces an API key, in any form in which text may quote it, by three asterisks.

    Plain, or as Basic sends it, with and without the colon; in upper or lower case; escaped as URLs, HTML,
    JSON and programming languages do it, one in the other too. Text in which it was escaped is shown with
    those escapes undone.

    :param api_key: The key.
    """

    def __init__(self, api_key: str) -> None:
        basic, without_colon = (
            base64.b64encode(text.encode()).decode().rstrip("=") for text in (f"{api_key}:", api_key)
        )
        forms = [form for each in (basic, without_colon) for form in (each, each.translate(_FOR_URLS))]
        # Text whose escapes are undone has those undone that the key itself seems to hold.
        plain = [form for form in _readings(api_key) if len(form) >= _SHORTEST]
        either = "|".join(map(re.escape, sorted(plain, key=len, reverse=True)))
        self._pattern = re.compile(f"(?:{'|'.join(map(re.escape, forms))})={{0,2}}|{either}", re.IGNORECASE)
        self._plain = tuple(form.lower().encode() for form in (*forms, *plain))

    def is_suspect(self, body: bytes) -> bool:
        """Whether text made of this body may quote the key; a cheap question that few bodies answer yes."""
        # The signs that escapes begin with; a NUL is a part of UTF-16.
        if b"\\" in body or b"%" in body or b"&" in body or b"\0" in body:
            return True
        lower = body.lower()
        return any(form in lower for form in self._plain)

    def text(self, text: str) -> str:
        """Text without the key."""
        for reading in _readings(text):
            if self._pattern.search(reading):
                return self.text(self._pattern.sub(MASK, reading))
        return text

    def value(self, value: T) -> T:
        """A copy of text, JSON or a dataclass of either without the key in any text in it."""
        copy: T = self._copy(value)
        return copy

    def _copy(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self._copy(name): self._copy(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._copy(item) for item in value]
        if is_dataclass(value) and not isinstance(value, type):
            held = {each.name: getattr(value, each.name) for each in fields(value)}
            return replace(value, **self._copy(held))
        return value


def _readings(text: str) -> Iterator[str]:
    """The text, and what it may mean: with its escapes undone, and theirs."""
    readings = [text]
    for reading in readings:
        yield reading
        for undo in (unquote, html.unescape, _without_backslashes):
            if len(readings) < _MOST_READINGS and (undone := undo(reading)) not in readings:
                readings.append(undone)


def _without_backslashes(text: str) -> str:
    return _BACKSLASHED.sub(_meant, text) if "\\" in text else text


def _meant(escape: re.Match[str]) -> str:
    *codes, letter = escape.groups()
    code = next(filter(None, codes), None)
    return letter if code is None or int(code, 16) > 0x10FFFF else chr(int(code, 16))
