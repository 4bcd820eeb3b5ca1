"""The ledger's own guard: what a run does not see of its own writing, and runs that meet."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import LedgerError
from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.run import RefundSync
from tests.shop import Shop

LEDGER = "talkable_refund_ledger"


class Replica:
    """A copy of an SQLite file that whatever is read comes from, as behind a splitter."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._original = Path(str(engine.url.database))
        self._copy = folder / "replica.sqlite"
        self.catch_up()
        event.listen(engine, "connect", self._attach)
        event.listen(engine, "before_cursor_execute", self._split, retval=True)

    def catch_up(self) -> None:
        if self._original.exists():
            shutil.copy(self._original, self._copy)

    def _attach(self, connection: Any, _record: object) -> None:
        connection.execute(f"ATTACH DATABASE '{self._copy}' AS replica")

    def _split(
        self, _conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        if statement.startswith("SELECT"):
            for before in ("FROM", "JOIN"):
                statement = statement.replace(f'{before} "{LEDGER}"', f'{before} replica."{LEDGER}"')
        return statement.replace("PRAGMA main.", "PRAGMA replica."), parameters


@pytest.fixture
def replicated(sqlite: URL, engines: Callable[[URL], Engine], tmp_path: Path) -> tuple[Engine, Replica]:
    """A database whose reads lag behind its writes; its ledger is there already."""
    Ledger(engines(sqlite)).open()
    engine = engines(sqlite)
    return engine, Replica(engine, tmp_path)


def test_where_reads_lag_nothing_partial_is_sent(
    replicated: tuple[Engine, Replica], sandbox: Sandbox
) -> None:
    engine, replica = replicated
    shop = Shop(engine, sandbox)
    shop.order("A", "B", "C")
    shop.refund(("a", "A", None, "5"), ("b", "B", None, "5"), "C")
    summary = shop.sync()
    assert not shop.sent
    assert summary.stopped
    assert f"{LEDGER} does not show what was just written to it" in summary.stopped
    assert "ledger_conn_id" in summary.stopped
    assert set(shop.states().values()) == {"aborted"}
    replica.catch_up()
    assert not shop.sync().outcomes.keys() - {"aborted"}
    assert not shop.sent


def test_a_ledger_that_is_not_there_once_it_was_made_is_no_ledger(
    sqlite: URL, engines: Callable[[URL], Engine], tmp_path: Path
) -> None:
    engine = engines(sqlite)
    Replica(engine, tmp_path)
    with pytest.raises(LedgerError, match=f"{LEDGER} was made and is not there"):
        Ledger(engine).open()


def test_a_dot_in_the_ledgers_name_is_refused(sqlite: URL, engines: Callable[[URL], Engine]) -> None:
    with pytest.raises(LedgerError, match=r"ledger_table='finance\.refunds'.*ledger_schema='finance'"):
        Ledger(engines(sqlite), table="finance.refunds")


def test_a_ledger_that_is_made_is_told_of(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    shop.order("A")
    shop.refund("A")
    summary = shop.sync()
    assert f"There was no ledger {LEDGER} in sqlite:" in caplog.text
    assert summary.ledger_created
    assert any("The ledger was made in this run" in line for line in summary.lines())
    caplog.clear()
    again = shop.sync()
    assert not again.ledger_created
    assert caplog.text == ""


@pytest.mark.parametrize("first", ["00000000", "ffffffff"])
def test_a_run_that_looks_between_anothers_looks_strands_no_refund(shop: Shop, first: str) -> None:
    shop.order("B")
    shop.refund(("b", "B", None, "5"))
    ledger = Ledger(shop.engine, writer=first)

    def before(sync: RefundSync) -> None:
        append = sync._ledger.append

        def appending(entries: Any) -> None:
            append(entries)
            sync._ledger.append = append  # type: ignore[method-assign]
            assert shop.sync(ledger=Ledger(shop.engine, writer="77777777")).outcomes == {"unconfirmed": 1}

        sync._ledger.append = appending  # type: ignore[method-assign]

    # The first one cannot know whether somebody acts on what the second one has said.
    assert shop.sync(ledger=ledger, before=before).outcomes == {"aborted": 1}
    assert not shop.sent
    assert shop.sync().outcomes == {"refunded": 1}
    assert shop.sync().skipped == 1
    assert shop.sent == ["B"]


@pytest.mark.parametrize("first", ["00000000", "ffffffff"])
@pytest.mark.parametrize("also", [(), ("88888888",)])
def test_a_doubt_ends_where_the_run_itself_says_that_it_sent_nothing(
    shop: Shop, first: str, also: tuple[str, ...]
) -> None:
    shop.order("B")
    shop.refund(("b", "B", None, "5"))
    ledger = Ledger(shop.engine, writer=first)

    def report_at_once(sync: RefundSync) -> None:
        append = sync._ledger.append

        def appending(entries: Any) -> None:
            sync._ledger.append = append  # type: ignore[method-assign]
            for writer in also:
                assert shop.sync(ledger=Ledger(shop.engine, writer=writer)).outcomes == {"unconfirmed": 1}
            append(entries)

        sync._ledger.append = appending  # type: ignore[method-assign]

    def stop(sync: RefundSync) -> None:
        put = sync._sender.put

        def putting(items: Any, *, first: bool = False) -> None:
            sync._sender.put = put  # type: ignore[method-assign]
            other = shop.sync(ledger=Ledger(shop.engine, writer="77777777"), before=report_at_once)
            assert other.outcomes == {"unconfirmed": 1}
            raise KeyboardInterrupt

        sync._sender.put = putting  # type: ignore[method-assign]

    with pytest.raises(KeyboardInterrupt):
        shop.sync(ledger=ledger, before=stop)
    assert not shop.sent
    assert shop.sync().outcomes == {"refunded": 1}
