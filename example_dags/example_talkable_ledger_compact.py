"""Delete from the ledger, once a month, the old entries that later ones supersede.

Each refund keeps what says how it stands, whether Talkable has it, and what is in doubt: the sync and the
reconciliation decide as before. Syncs may run at the same time. Run it by hand with ``preview`` to see what
it would delete. Its log and its XCom have the counts.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_talkable.hooks.ledger import TalkableLedgerHook

with DAG(
    "example_talkable_ledger_compact",
    schedule="@monthly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={
        "days": Param(90, type="integer", minimum=1, description="Keep all entries that are younger"),
        "preview": Param(False, type="boolean", description="Delete nothing: count what would be deleted"),
    },
    doc_md=__doc__,
    tags=["talkable"],
):

    @task
    def compact(params: Any = None) -> dict[str, Any]:
        """Delete what is superseded, and return how many entries of how many refunds."""
        before = timedelta(days=params["days"])
        return TalkableLedgerHook("shop_warehouse").compact(before, preview=params["preview"])

    compact()
