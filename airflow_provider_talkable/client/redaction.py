"""Keeping the API key out of whatever is shown: some proxies' pages quote the request they refuse."""

from __future__ import annotations

import base64
import re
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from html.entities import codepoint2name
from typing import Any, TypeVar

T = TypeVar("T")

MASK = "***"

_NAMED = codepoint2name | {ord("'"): "apos"}
_FOR_URLS = str.maketrans("+/", "-_")  # what Base64 for URLs writes instead


class Redaction:
    """Replaces an API key, in any form in which text may quote it, by three asterisks.

    Plain, or as Basic sends it, with and without the colon; in upper or lower case; each letter as it is
    or escaped as URLs, JSON, HTML and programming languages do it.

    :param api_key: The key.
    """

    def __init__(self, api_key: str) -> None:
        self._pattern = _pattern(api_key)
        plain = {form.lower() for form in _forms(api_key)}
        plain |= {form.translate(_FOR_URLS) for form in plain}
        self._plain = tuple(form.encode() for form in plain)

    def is_suspect(self, body: bytes) -> bool:
        """Whether text made of this body may quote the key; a cheap question that few bodies answer yes."""
        if b"\\" in body or b"%" in body or b"&" in body or b"\0" in body:
            return True
        lower = body.lower()
        return any(form in lower for form in self._plain)

    def text(self, text: str) -> str:
        """Text without the key."""
        return self._pattern.sub(MASK, text)

    def value(self, value: T) -> T:
        """A copy of text, JSON or a dataclass of either without the key in any text in it."""
        copy: Any = self._copy(value)
        return copy  # type: ignore[no-any-return]

    def _copy(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self._copy(name): self._copy(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._copy(item) for item in value]
        if is_dataclass(value) and not isinstance(value, type):
            return replace(
                value, **{each.name: self._copy(getattr(value, each.name)) for each in fields(value)}
            )
        return value


def _forms(api_key: str) -> tuple[str, ...]:
    """The key, and the ways in which Basic carries it, the longest first; less what only fills up."""
    encoded = (base64.b64encode(text.encode()).decode().rstrip("=") for text in (f"{api_key}:", api_key))
    return (*encoded, api_key)


@lru_cache(maxsize=8)
def _pattern(api_key: str) -> re.Pattern[str]:
    with_colon, without, plain = ("".join(map(_escaped, form)) for form in _forms(api_key))
    filling = f"(?:{_escaped('=')}){{0,2}}"
    return re.compile(f"(?:{with_colon}|{without}){filling}|{plain}", re.IGNORECASE)


def _escaped(letter: str) -> str:
    """A pattern for a letter in each of the ways it can be written, escapes of escapes included.

    All repetitions are bounded: a body made of backslashes is not to take for ever.
    """
    code = ord(letter)
    ways = [
        re.escape(letter),
        rf"%(?:25){{0,4}}{code:02x}",
        rf"u\{{?0{{0,6}}{code:x}\}}?",
        rf"x{code:02x}",
        rf"&(?:amp;){{0,4}}#(?:0{{0,6}}{code}|x0{{0,6}}{code:x});",
    ]
    if name := _NAMED.get(code):
        ways.append(f"&(?:amp;){{0,4}}{name};")
    if code in _FOR_URLS:
        ways.append(chr(_FOR_URLS[code]))
    return rf"\\{{0,8}}(?:{'|'.join(ways)})"
