"""Ask a person about each refund of which nobody knows whether Talkable has it, and settle what is answered.

Each refund that the ledger calls ``unconfirmed`` is a required action in Airflow's UI, with what the ledger
knows of it. Whoever looks the order up in Talkable answers there; the ledger keeps the answer, the name and
the note. What is settled as not refunded is sent by the next sync. *Ask me later*, and no answer within a
day, change nothing: the next run asks again.

It needs Airflow 3.1 or later, the first that can ask a person. On an older one this file has no DAG.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task, task_group

from airflow_provider_talkable.hooks.ledger import TalkableLedgerHook

try:
    from airflow.providers.standard.operators.hitl import HITLOperator
except Exception:  # noqa: BLE001 - the provider for older versions of Airflow raises one of its own
    HITLOperator = None  # type: ignore[assignment,misc]

LEDGER = "shop_warehouse"
HAS_IT, DOES_NOT, LATER = "Talkable has it", "Talkable does not have it", "Ask me later"
SETTLE_AS = {HAS_IT: "refunded", DOES_NOT: "not_refunded"}

if HITLOperator is not None:
    with DAG(
        "example_talkable_settle",
        schedule="@daily",
        start_date=datetime(2026, 1, 1),
        catchup=False,
        # A refund is asked about once at a time.
        max_active_runs=1,
        doc_md=__doc__,
        tags=["talkable"],
    ):

        @task
        def unconfirmed() -> list[dict[str, Any]]:
            """What is in doubt, and no run may still be sending."""
            return TalkableLedgerHook(LEDGER).unconfirmed()

        @task(multiple_outputs=True)
        def question(refund: Any) -> dict[str, str]:
            """What is known of it, in Markdown."""
            return {
                "subject": f"Does Talkable have refund {refund['refund_key']}?",
                "body": "\n".join(f"- {name}: {value}" for name, value in refund.items()),
            }

        @task
        def settle(refund: Any, answer: Any) -> None:
            """Write down what was found, or nothing."""
            settle_as = SETTLE_AS.get(answer["chosen_options"][0])
            if settle_as:
                TalkableLedgerHook(LEDGER).settle(
                    refund["refund_key"],
                    settle_as,
                    site_slug=refund["site_slug"],
                    by=answer["responded_by_user"]["name"],
                    note=answer["params_input"].get("note") or "answered in Airflow",
                )

        @task_group
        def each(refund: Any) -> None:
            """Settled as soon as it is answered, whatever happens to the others."""
            asked: Any = question(refund)
            answer = HITLOperator(
                task_id="ask",
                subject=asked["subject"],
                body=asked["body"],
                options=[HAS_IT, DOES_NOT, LATER],
                defaults=LATER,
                params={"note": Param("", type="string", description="What you saw in Talkable's dashboard")},
                response_timeout=timedelta(days=1),
            )
            settle(refund, answer.output)

        each.expand(refund=unconfirmed())
