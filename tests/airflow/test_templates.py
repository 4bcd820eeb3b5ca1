"""Templates name the same order whatever the DAG says of native objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_talkable import InvalidRefund, TalkableError
from airflow_provider_talkable.operators._rendered import as_list_or_one
from airflow_provider_talkable.operators.reconcile import TalkableRefundReconcileOperator
from airflow_provider_talkable.operators.referral import TalkableReferralOperator
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sensors.referral import TalkableReferralSensor
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator
from tests.airflow.task import TaskInstance
from tests.conftest import Sandboxes, examples

Connect = Callable[..., str]

# What native rendering evaluates to another text, or to no text at all.
EVALUATED = [
    "1001#2",
    "0x10",
    "100_200",
    "+1001",
    "1e3",
    "0o17",
    "(1001)",
    "'1001'",
    "1_0",
    "--1",
    "10 ",
    "True",
    "1001.0",
]
TEMPLATE = "{{ params.value }}"


@pytest.fixture(params=[False, True], ids=["text", "native"])
def native(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def shop(sandboxes: Sandboxes, connect: Connect) -> Sandbox:
    sandbox = sandboxes(generation="seed")
    connect(sandbox)
    return sandbox


def rendered(kind: type[BaseOperator], native: bool, params: Any, **fields: Any) -> tuple[Any, Any]:
    with DAG("refunds", schedule=None, render_template_as_native_obj=native):
        operator = kind(task_id="task", **fields)
    context: Any = {"ti": TaskInstance("task"), "params": params}
    operator.render_template_fields(context)
    return operator, context


def execute(kind: type[BaseOperator], native: bool, params: Any, **fields: Any) -> Any:
    operator, context = rendered(kind, native, params, **fields)
    with suppress(TalkableError):
        return operator.execute(context)


def named(sandbox: Sandbox, part: int = 4) -> list[str]:
    return [unquote(request["path"].split("/")[part]) for request in sandbox.requests]


@pytest.mark.parametrize("slug", EVALUATED)
def test_a_refund_is_of_the_order_that_the_template_names(shop: Sandbox, native: bool, slug: str) -> None:
    execute(TalkableRefundOperator, native, {"value": slug}, origin_slug=TEMPLATE)
    execute(TalkableRefundOperator, native, {"value": slug}, origin_slug=[TEMPLATE])
    execute(TalkableRefundOperator, native, {"value": slug}, refunds=[{"order_number": TEMPLATE}])
    execute(TalkableRefundOperator, native, {"value": [slug]}, origin_slug=TEMPLATE)
    execute(TalkableRefundOperator, native, {"value": [{"ORDER_NUMBER": slug}]}, refunds=TEMPLATE)
    execute(TalkableReferralOperator, native, {"value": slug}, origin_slug=TEMPLATE, status="voided")
    assert set(named(shop)) <= {slug}
    if slug.isalnum():
        assert named(shop) == [slug] * 6


def test_an_explicit_parameter_of_the_operator_does_not_change_it(shop: Sandbox) -> None:
    if not hasattr(BaseOperator, "render_template_as_native_obj"):
        pytest.skip("Airflow 3.2 brought the parameter; the tests run there too")
    fields = {"origin_slug": TEMPLATE, "render_template_as_native_obj": True}
    execute(TalkableRefundOperator, False, {"value": "0x10"}, **fields)
    assert named(shop) == ["0x10"]


def test_a_person_of_a_template_is_the_one_it_names(shop: Sandbox, native: bool) -> None:
    sensor, context = rendered(
        TalkableReferralSensor,
        native,
        {"value": "+15551234567", "id": "7"},
        person=TEMPLATE,
        origin_id="{{ params.id }}",
    )
    sensor.poke(context)
    assert named(shop) == ["+15551234567"]


@pytest.mark.parametrize("kind", [SqlToTalkableRefundOperator, TalkableRefundReconcileOperator])
def test_a_querys_parameters_are_what_the_templates_say(kind: type[BaseOperator], native: bool) -> None:
    operator, _ = rendered(
        kind,
        native,
        {"value": "0x10"},
        sql="SELECT {{ params.value }}",
        sql_conn_id="w_{{ params.value }}",
        parameters={"order": TEMPLATE, "count": 5},
        site_slug=TEMPLATE,
    )
    assert operator.sql == "SELECT 0x10"
    assert operator.parameters == {"order": "0x10", "count": 5}
    assert (operator.site_slug, operator.sql_conn_id) == ("0x10", "w_0x10")


def test_a_mapped_operator_renders_as_text_too(shop: Sandbox, native: bool) -> None:
    with DAG("refunds", schedule=None, render_template_as_native_obj=native):
        mapped = TalkableRefundOperator.partial(task_id="refund", origin_slug=TEMPLATE).expand(
            ignore=[["failed"]]
        )
    operator: Any = mapped.unmap({"ignore": ["failed"]})
    context: Any = {"ti": TaskInstance("refund"), "params": {"value": "0x10"}}
    # As the mapped operator itself does, with the environment that is the DAG's own.
    operator._do_render_template_fields(
        operator, mapped.template_fields, context, mapped.get_template_env(), set()
    )
    assert operator.origin_slug == "0x10"


@pytest.mark.parametrize(
    "text",
    [
        "[0x10]", "[100_200]", "[+1001]", "[1001#2\n]", "[1001, # of today\n1002]", "[00]", "[-0]",
        "['1001' '1002']",
        "[0b1]", "[- 5]", '{"order_number": "A", "order_number": "B"}',
        "{'order_number': 'A', 'order_number': 'B'}",
        '[{"refund_subtotal": 5, "refund_subtotal": null, "order_number": "A"}]', "[1001", "{'A': }",
    ],
)  # fmt: skip
def test_a_lists_text_that_would_be_read_as_something_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidRefund, match="^origin_slug="):
        as_list_or_one("origin_slug", text)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[1001, 1002]", [1001, 1002]),
        ("['A', \"B'\", None, -5, 12.50, True]", ["A", "B'", None, -5, 12.5, True]),
        ('["A", null, -5, 12.50, 0]', ["A", None, -5, 12.5, 0]),
        ("[('A',), ('B',)]", ["A", "B"]),
        ("[]", []),
    ],
)
def test_a_lists_text_is_the_list(text: str, items: list[Any]) -> None:
    assert as_list_or_one("origin_slug", text) == items


def test_one_byte_is_not_taken_for_a_row_of_one_column() -> None:
    for value in (b"7", bytearray(b"7"), memoryview(b"7")):
        assert as_list_or_one("origin_slug", [value]) == [value]


slugs = (
    st.text(max_size=8) | st.sampled_from(EVALUATED) | st.from_regex(r"[-+0-9xe_#'. ]{1,6}", fullmatch=True)
)


@given(st.lists(slugs, max_size=5))
@example(EVALUATED)
@examples(300)
def test_the_text_of_a_list_is_read_as_that_list(items: list[str]) -> None:
    assert as_list_or_one("origin_slug", str(items)) == items
    assert as_list_or_one("origin_slug", json.dumps(items)) == items


def test_no_text_is_sent_as_another_order_than_it_names(shop: Sandbox) -> None:
    @given(slugs.filter(lambda slug: slug.strip()[:1] not in ("[", "{")), st.booleans())
    @examples(60)
    def check(slug: str, native: bool) -> None:
        before = len(shop.requests)
        execute(TalkableRefundOperator, native, {"value": slug}, origin_slug=TEMPLATE)
        execute(TalkableReferralOperator, native, {"value": [slug]}, origin_slug=TEMPLATE, status="voided")
        assert set(named(shop)[before:]) <= {slug}

    check()
