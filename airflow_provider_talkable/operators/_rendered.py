"""Rendering templates, and reading what a template or an XCom turned a parameter into."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_talkable.protocol.errors import InvalidRefund

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context

_BYTES = (bytes, bytearray, memoryview)
_NOT_NATIVE: Any = SimpleNamespace(render_template_as_native_obj=False)


class TextTemplateOperator(BaseOperator):
    """Renders its templates as text, also in a DAG with ``render_template_as_native_obj=True``.

    Native rendering evaluates the text of a template as Python: of the orders ``1001#2``, ``0x10``,
    ``100_200`` and ``+1001`` it makes the numbers 1001, 16, 100200 and 1001, which are other orders.
    """

    def get_template_env(self, dag: Any = None) -> jinja2.Environment:
        """The DAG's environment for text, with its macros, filters and search path."""
        dag = dag or self.get_dag()
        env: jinja2.Environment = (
            dag.get_template_env(force_sandboxed=True) if dag else super().get_template_env()
        )
        return env

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render a template, or those in a collection."""
        from jinja2.nativetypes import NativeEnvironment

        # A mapped operator hands on the DAG's own environment.
        if jinja_env is None or isinstance(jinja_env, NativeEnvironment):
            jinja_env = self.get_template_env()
        return super().render_template(content, context, jinja_env, seen_oids)

    def _render(self, template: Any, context: Any, dag: Any = None) -> Any:  # noqa: ARG002
        # Airflow 3.2 and later ask the operator first, earlier ones the DAG only.
        self.render_template_as_native_obj = False
        return super()._render(template, context, dag=_NOT_NATIVE)


def as_list_or_one(field: str, value: object) -> object:
    """Return a list if the value is one, whatever its form, and the value itself if it is not.

    Jinja renders to text: the text of a JSON list, of a Python list or of a mapping is read as what it
    is the text of. A row of one column, as SQL operators return it, counts as what is in it.

    :param field: The parameter's name, for the error.
    :param value: What rendered.
    :raises InvalidRefund: if the text looks like a list or a mapping and cannot be read as one.
    """
    value = from_text(field, value)
    if isinstance(value, Sequence) and not isinstance(value, (str, *_BYTES)):
        return [_only_column(item) for item in value]
    return value


def from_text(field: str, value: object) -> object:
    """The list or the mapping that a text is the text of; any other value as it is.

    :param field: The parameter's name, for the error.
    :raises InvalidRefund: if the text looks like one of them and cannot be read as it without a doubt.
    """
    text = value.strip() if isinstance(value, str) else ""
    if text[:1] not in ("[", "{"):
        return value
    for parse in (_json, _python):
        try:
            return parse(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
    raise InvalidRefund.of(
        field,
        value,
        "looks like a list but reads as neither JSON nor Python, or not as what it says; pass the list "
        "itself, as XComArg (task.output), or its text by the filter tojson",
    )


def _json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_each_once, parse_int=_as_written)


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    columns = dict(pairs)
    if len(columns) < len(pairs):
        raise ValueError
    return columns


def _as_written(digits: str) -> int:
    number = int(digits)
    if str(number) != digits:
        raise ValueError
    return number


def _python(text: str) -> object:
    """Read what ``str`` makes of a list or a mapping, and of Python nothing more.

    Comments, other notations of numbers and joined texts would be read as what is not written there.
    """
    for token, following in pairwise(tokenize.generate_tokens(io.StringIO(text).readline)):
        if token.type == tokenize.COMMENT or token.string == "+":
            raise ValueError
        if token.type == following.type == tokenize.STRING:
            raise ValueError
        if token.string == "-":
            if following.type != tokenize.NUMBER or following.string == "0" or token.end != following.start:
                raise ValueError
        elif token.type == tokenize.NUMBER and isinstance(ast.literal_eval(token.string), int):
            _as_written(token.string)
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            _each_once([(ast.dump(key), None) for key in node.keys if key])
    value: object = ast.literal_eval(tree)
    return value


def _only_column(item: object) -> object:
    if isinstance(item, Sequence) and not isinstance(item, (str, *_BYTES)) and len(item) == 1:
        return item[0]
    return item
