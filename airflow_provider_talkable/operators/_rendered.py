"""Reading what a template or an XCom turned a parameter into."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence

from airflow_provider_talkable.protocol.errors import InvalidRefund


def as_list_or_one(field: str, value: object) -> object:
    """Return a list if the value is one, whatever its form, and the value itself if it is not.

    Jinja renders to text: the text of a JSON list, of a Python list or of a mapping is read as what it
    is the text of. A row of one column, as SQL operators return it, counts as what is in it.

    :param field: The parameter's name, for the error.
    :param value: What rendered.
    :raises InvalidRefund: if the text looks like a list or a mapping and cannot be read as one.
    """
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        value = _read(field, value.strip())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        return [_only_column(item) for item in value]
    return value


def _read(field: str, text: str) -> object:
    for parse in (json.loads, ast.literal_eval):
        try:
            value: object = parse(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list | dict):
            return value
    raise InvalidRefund.of(
        field,
        text,
        "looks like a list but reads as neither JSON nor Python; pass the list itself, as XComArg "
        "(task.output) or with render_template_as_native_obj=True on the DAG",
    )


def _only_column(item: object) -> object:
    if isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) == 1:
        return item[0]
    return item
