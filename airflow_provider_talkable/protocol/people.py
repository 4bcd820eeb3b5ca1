"""Leaving people's data out of what is passed on."""

from __future__ import annotations

import re
from typing import Any

_PERSONAL_KEY = re.compile(
    r"email|phone|^(first_|last_|middle_|full_|user_?)?name$|^ip_address$", re.IGNORECASE
)
_EMAIL = re.compile(r"[^\s@<>\"'(),;:]+@[^\s@<>\"'(),;:]+")


def without_people(value: Any) -> Any:
    """A copy without names, e-mail addresses, phone numbers and IP addresses.

    Fields of such names are left out; an e-mail address inside any other text is masked.
    """
    if isinstance(value, dict):
        return {key: without_people(item) for key, item in value.items() if not _PERSONAL_KEY.search(key)}
    if isinstance(value, list):
        return [without_people(item) for item in value]
    if isinstance(value, str):
        return _EMAIL.sub("[redacted]", value)
    return value
