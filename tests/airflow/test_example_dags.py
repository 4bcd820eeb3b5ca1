"""The example DAGs run in Airflow as they are, against a warehouse and a sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow import __version__

from airflow_provider_talkable.sandbox.talkable import Generation
from tests.airflow.conftest import EXAMPLES, RUN_DATE, Airflow
from tests.conftest import KEY

AIRFLOW = tuple(map(int, __version__.split(".")[:2]))
IS_AIRFLOW_3 = AIRFLOW >= (3, 0)
NEEDS_3_1 = "example_talkable_settle"


def by_slug(results: list[Any]) -> dict[str, Any]:
    return {result["origin_slug"]: result for result in results}


def assert_key_is_nowhere(airflow: Airflow, log: str) -> None:
    """Neither in the log nor in anything that Airflow keeps: XCom, rendered fields, the task store."""
    kept = b"".join(path.read_bytes() for path in airflow.home.rglob("*") if path.is_file())
    # At DEBUG level `airflow dags test`, and nothing else in Airflow, writes down what it is to mask.
    log = "\n".join(line for line in log.splitlines() if "msg=MaskSecret(" not in line)
    assert b"Refunds: " in log.encode() + kept
    for secret in (KEY, "aTl1aWw3blFnRGp1Y0NpVEp1"):
        assert secret not in log
        assert secret.encode() not in kept


def test_refunds_of_the_last_day_go_through_xcom(airflow: Airflow) -> None:
    log = airflow.run("example_talkable_refunds")
    assert airflow.states() == {"refunded_orders": {"success"}, "refund": {"success"}}, log[-3000:]
    [results] = airflow.xcom("refund", "return_value")
    assert airflow.xcom("refund", "results") == [results]
    assert {slug: r["outcome"] for slug, r in by_slug(results).items()} == {
        "A": "refunded",
        "B": "refunded",
        "C": "refunded",
        "D": "not_found",
    }
    assert by_slug(results)["C"]["referral"]["status"] == "approved"
    assert by_slug(results)["A"]["referral"]["status"] == "voided"
    assert "D: not_found: No origin found" in log
    assert_key_is_nowhere(airflow, log)


def test_each_refund_in_a_task_of_its_own(airflow: Airflow) -> None:
    log = airflow.run("example_talkable_refunds_mapped")
    assert airflow.states() == {"latest_refunds": {"success"}, "refund": {"success"}}, log[-3000:]
    results = airflow.xcom("refund", "return_value")
    assert [r["origin_slug"] for r in results] == ["A", "B", "C", "D", "E"]
    assert airflow.sandbox.talkable.snapshot()["my-store"]["B"]["refund_subtotal"] == 25.5
    assert_key_is_nowhere(airflow, log)
    # A newer refund moves the others to other task instances, which know nothing of them.
    with closing(airflow.warehouse) as warehouse, warehouse:
        warehouse.execute("INSERT INTO refunds VALUES ('r7', 'G', ?, 10, 'my-store')", (str(RUN_DATE),))
    airflow.run("example_talkable_refunds_mapped")
    results = airflow.xcom("refund", "return_value")
    assert [r["origin_slug"] for r in results] == ["G", "A", "B", "C", "D"]
    assert [r["attempts"] for r in results] == [1, 0, 0, 0, 0]
    assert airflow.sandbox.talkable.snapshot()["my-store"]["B"]["refund_subtotal"] == 25.5


def test_results_are_written_back_to_the_warehouse(airflow: Airflow) -> None:
    log = airflow.run("example_talkable_refunds_write_back")
    assert set().union(*airflow.states().values()) == {"success"}, log[-3000:]
    with closing(airflow.warehouse) as warehouse:
        rows = warehouse.execute("SELECT * FROM talkable_refunds ORDER BY 1").fetchall()
    assert rows == [
        ("A", "refunded", "voided", 0, None),
        ("B", "refunded", None, 0, None),
        ("C", "refunded", "approved", 1, None),
        ("D", "not_found", None, None, "No origin found by `origin_slug`."),
    ]
    assert "@example.com" not in json.dumps(airflow.xcom("refund", "results"))


def ledger(airflow: Airflow) -> list[tuple[str, str, str]]:
    """The newest event of each refund."""
    with closing(airflow.warehouse) as warehouse:
        query = "SELECT site_slug, refund_key, event FROM talkable_refund_ledger ORDER BY entry_id"
        return sorted({row[:2]: row for row in warehouse.execute(query)}.values())


def test_the_daily_sync_sends_what_is_new(airflow: Airflow) -> None:
    log = airflow.run("example_talkable_sync")
    assert airflow.states() == {"sync_refunds": {"success"}}, log[-3000:]
    assert ledger(airflow) == [
        ("my-store", "r1", "refunded"),
        ("my-store", "r2", "refunded"),
        ("my-store", "r3", "refunded"),
        ("my-store", "r4", "not_found"),
    ]
    [summary] = airflow.xcom("sync_refunds", "return_value")
    assert (summary["rows"], summary["sent"], summary["rewarded"]) == (4, 4, 1)
    assert "Too late, the advocate had been paid: 1 of 2 referred orders" in log
    [link] = airflow.xcom("sync_refunds", "_link_TalkableSiteLink")
    assert link == "https://admin.talkable.com/sites/my-store"
    [query] = airflow.xcom("sync_refunds", "ledger_query")
    with closing(airflow.warehouse) as warehouse:
        assert len(warehouse.execute(query).fetchall()) == 8
    [told] = [event for event in airflow.lineage("sync_refunds") if event["eventType"] == "COMPLETE"]
    assert [output["name"] for output in told["outputs"]] == ["my-store.refunds"]
    [refunds] = told["outputs"]
    refunded = told["run"]["facets"]["talkable_refunds"]["outcomes"]["refunded"]
    assert refunds["outputFacets"]["outputStatistics"]["rowCount"] == refunded > 0
    assert told["run"]["facets"]["talkable_refunds"]["rewarded"] == 1
    if IS_AIRFLOW_3:  # Before, `airflow dags test` leaves events out.
        [(extra,)] = airflow.metadata("SELECT extra FROM asset_event")
        assert json.loads(extra) == summary
    assert_key_is_nowhere(airflow, log)

    # The next day's window still has them; they are settled.
    airflow.run("example_talkable_sync", date=RUN_DATE + timedelta(days=1))
    summaries = airflow.xcom("sync_refunds", "return_value")
    assert sorted((s["rows"], s["skipped"], s["sent"]) for s in summaries) == [(4, 0, 4), (4, 4, 0)]
    # Four refunds, and two referrals of whole ones to void; the one that was not found has none.
    assert len(airflow.sandbox.requests) == 6


def test_after_a_sync_what_it_left_open_is_found(airflow: Airflow) -> None:
    airflow.run("example_talkable_sync")
    log = airflow.run("example_talkable_after_sync")
    assert airflow.states()["reconcile"] == {"failed"}, log[-3000:]
    [summary] = airflow.xcom("reconcile", "summary")
    assert [(found["kind"], found["origin_slug"]) for found in summary["shown"]] == [("rewarded", "C")]
    assert_key_is_nowhere(airflow, log)


def test_each_site_is_synced_in_a_task_of_its_own(airflow: Airflow) -> None:
    airflow.command("pools", "set", "talkable", "2", "Syncs to Talkable")
    log = airflow.run("example_talkable_sync_sites")
    assert airflow.states() == {"sync_refunds": {"success"}}, log[-3000:]
    assert ("my-store-de", "r6", "refunded") in ledger(airflow)
    assert len(ledger(airflow)) == 6
    summaries = airflow.xcom("sync_refunds", "return_value")
    assert [summary["rows"] for summary in summaries] == [5, 0, 1, 0]


def test_the_backfill_begins_as_a_preview(airflow: Airflow) -> None:
    log = airflow.run("example_talkable_sync_backfill")
    assert airflow.states() == {"sync_refunds": {"success"}}, log[-3000:]
    [summary] = airflow.xcom("sync_refunds", "return_value")
    assert (summary["outcomes"], summary["rows"]) == ({"to_send": 5}, 5)
    assert "Would send: C" in log
    assert not airflow.sandbox.requests
    conf = {"preview": False, "since": "2025-12-01", "resend": ["not_found"]}
    log = airflow.run(
        "example_talkable_sync_backfill", "--conf", json.dumps(conf), date=RUN_DATE + timedelta(1)
    )
    assert airflow.states() == {"sync_refunds": {"success"}}, log[-3000:]
    assert "Refunds: 5 refunded, 1 not_found" in log
    assert sum(request["method"] == "POST" for request in airflow.sandbox.requests) == 6


def test_late_refunds_are_found_and_what_they_cost(airflow: Airflow) -> None:
    log = airflow.run("example_talkable_late_refunds")
    assert airflow.states() == {"sync_refunds": {"success"}, "reconcile": {"success"}}, log[-3000:]
    [summary] = airflow.xcom("reconcile", "return_value")
    counts = {kind: count for kind, count in summary["discrepancies"].items() if count}
    # E was refunded a month ago and is in no window of the sync's.
    assert (summary["refunds"], counts) == (5, {"missing": 1, "rewarded": 1})
    assert (summary["rewards"], summary["unknown"]) == ({"EUR": "10.00"}, 0)
    with closing(airflow.warehouse) as warehouse:
        query = "SELECT kind, origin_slug, reward FROM talkable_refund_discrepancies ORDER BY origin_slug"
        assert warehouse.execute(query).fetchall() == [("rewarded", "C", 10.0), ("missing", "E", None)]
    assert "Paid to advocates of refunded orders: 10.00 EUR" in log
    assert_key_is_nowhere(airflow, log)


def test_referrals_are_voided_and_approved(airflow: Airflow) -> None:
    flagged = airflow.sandbox.talkable.sites["my-store"]["C"].referral
    assert flagged
    flagged.status = "flagged"
    log = airflow.run("example_talkable_manual_approval")
    assert set(airflow.states()) == {"refunded", "void", "kept", "approve"}
    assert set().union(*airflow.states().values()) == {"success"}, log[-3000:]
    [voided], [approved] = airflow.xcom("void", "results"), airflow.xcom("approve", "results")
    assert {slug: r["outcome"] for slug, r in by_slug(voided).items()} == {
        "A": "updated",
        "C": "updated",
        "D": "not_found",
    }
    assert {slug: r["outcome"] for slug, r in by_slug(approved).items()} == {"G": "updated"}
    held = airflow.sandbox.talkable.snapshot()["my-store"]
    assert {slug: held[slug]["referral"]["status"] for slug in "ABCG"} == {
        "A": "voided",
        "B": "pending",
        "C": "voided",
        "G": "approved",
    }
    assert "@example.com" not in json.dumps([voided, approved])


@pytest.mark.parametrize("generation", ["seed", "current"])
def test_a_refund_is_waited_for(airflow: Airflow, generation: str) -> None:
    airflow.sandbox.talkable.generation = Generation(generation)
    log = airflow.run("example_talkable_refund_and_wait", "--conf", '{"order_number": "A"}')
    assert set(airflow.states()) == {"refund", "has_referral", "wait"}
    assert set().union(*airflow.states().values()) == {"success"}, log[-3000:]
    [referral] = airflow.xcom("wait", "return_value")
    assert (referral["status"], referral["friend_person"]["email"]) == ("voided", "A@example.com")
    if generation == "current":
        # The second refund of the same order comes back without a referral.
        airflow.run(
            "example_talkable_refund_and_wait",
            "--conf",
            '{"order_number": "A"}',
            date=RUN_DATE + timedelta(days=1),
        )
        assert airflow.states()["wait"] == {"success", "skipped"}


@pytest.mark.skipif(AIRFLOW < (3, 1), reason="Airflow before 3.1 asks nobody; it has no such DAG, see below")
def test_where_nothing_is_in_doubt_nobody_is_asked(airflow: Airflow) -> None:
    """What is asked, and what happens to the answers, is tested with a scheduler and an API server."""
    airflow.run("example_talkable_sync")
    with closing(airflow.warehouse) as warehouse:
        before = warehouse.execute("SELECT count(*) FROM talkable_refund_ledger").fetchall()
    log = airflow.run("example_talkable_settle")
    states = airflow.states()
    assert states["unconfirmed"] == {"success"}, log[-3000:]
    assert states["each.ask"] == states["each.settle"] == {"skipped"}, log[-3000:]
    with closing(airflow.warehouse) as warehouse:
        assert warehouse.execute("SELECT count(*) FROM talkable_refund_ledger").fetchall() == before


def test_old_entries_of_the_ledger_are_deleted(airflow: Airflow) -> None:
    airflow.run("example_talkable_sync")
    before = ledger(airflow)
    count = "SELECT event, count(*) FROM talkable_refund_ledger GROUP BY event ORDER BY event"
    log = airflow.run("example_talkable_ledger_compact")
    assert airflow.states()["compact"] == {"success"}, log[-3000:]
    [done] = airflow.xcom("compact", "return_value")
    assert (done["refunds"], done["entries"]) == (0, 0)
    with closing(airflow.warehouse) as warehouse, warehouse:
        # Long ago: the first digits of an id say when.
        warehouse.execute("UPDATE talkable_refund_ledger SET entry_id = '17' || substr(entry_id, 3)")
        counts = warehouse.execute(count).fetchall()
    conf, date = '{"preview": true}', RUN_DATE + timedelta(days=1)
    airflow.run("example_talkable_ledger_compact", "--conf", conf, date=date)
    with closing(airflow.warehouse) as warehouse:
        assert warehouse.execute(count).fetchall() == counts
    conf, date = '{"days": 30}', RUN_DATE + timedelta(days=2)
    log = airflow.run("example_talkable_ledger_compact", "--conf", conf, date=date)
    _, would, done = airflow.xcom("compact", "return_value")
    assert would["events"] == done["events"] == {"submitted": 4}
    assert "Deleted of the ledger talkable_refund_ledger: " in log
    assert ledger(airflow) == before
    with closing(airflow.warehouse) as warehouse:
        assert warehouse.execute(count).fetchall() == [one for one in counts if one[0] != "submitted"]


RETRIED = """
from datetime import timedelta
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_talkable.operators.refund import TalkableRefundOperator

with DAG("retried", schedule=None):
    TalkableRefundOperator(
        task_id="refund",
        refunds=[{"origin_slug": "A"}, {"origin_slug": "B", "refund_subtotal": 25.5}, {"origin_slug": "D"}],
        ignore=(),
        retries=1,
        retry_delay=timedelta(seconds=1),
    )
"""


def test_a_retry_sends_nothing_that_is_settled(airflow: Airflow) -> None:
    folder = airflow.home / "dags"
    folder.mkdir()
    (folder / "retried.py").write_text(RETRIED)
    log = airflow.run("retried", folder=folder)
    assert airflow.states() == {"refund": {"failed"}}, log[-3000:]
    [results] = airflow.xcom("refund", "results")
    sent = [request["path"].split("/")[4] for request in airflow.sandbox.requests]
    if AIRFLOW >= (3, 3):
        assert sent == ["A", "B", "D", "D"]
        assert [r["outcome"] for r in results] == ["refunded", "refunded", "not_found"]
    else:
        assert sent == ["A", "B", "D", "A", "D"]
        assert [r["outcome"] for r in results] == ["already_refunded", "unconfirmed", "not_found"]
    assert airflow.sandbox.talkable.snapshot()["my-store"]["B"]["times_refunded"] == 1
    assert_key_is_nowhere(airflow, log)


def test_airflow_imports_and_serialises_each_example(airflow: Airflow) -> None:
    log = airflow.command("dags", "reserialize")
    assert airflow.metadata("SELECT filename, stacktrace FROM import_error") == [], log
    serialised = airflow.metadata("SELECT dag_id FROM serialized_dag")
    examples = {path.stem for path in EXAMPLES.glob("*.py")}
    # Nobody can be asked before Airflow 3.1.
    assert {dag_id for (dag_id,) in serialised} == examples - ({NEEDS_3_1} if AIRFLOW < (3, 1) else set())


def test_airflow_lists_the_provider(run_airflow: Callable[..., str]) -> None:
    assert "airflow-provider-talkable" in run_airflow("providers", "list")
    assert "talkable" in run_airflow("providers", "hooks")


@pytest.fixture
def run_airflow(tmp_path: Path) -> Callable[..., str]:
    """Runs an Airflow command in an empty home and returns what it printed."""

    def run(*arguments: str) -> str:
        environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "airflow", *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        assert "talkable" not in done.stderr, "Airflow warns about the provider"
        return done.stdout

    return run
