"""The command line: Airflow's own, where it takes commands of providers, and ``python -m``."""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
from airflow import __version__ as airflow_version
from airflow.providers_manager import ProvidersManager
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.cli.definition import get_parser, main
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.sandbox import Canned, Dials, Reset, Sandbox
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.rows import Row
from tests.airflow.commands import fork, start
from tests.airflow.conftest import LATE, Airflow
from tests.airflow.test_secrets import BASE64, FORMS, SECRET
from tests.conftest import KEY, Sandboxes
from tests.documents import block
from tests.documents import commands as commands_of
from tests.shop import Shop, wait_for_requests

MODULE = [sys.executable, "-m", "airflow_provider_talkable"]
AIRFLOW = [sys.executable, "-m", "airflow", "talkable"]
PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
IN_AIRFLOW = hasattr(ProvidersManager, "cli_command_functions")
needs_airflow_commands = pytest.mark.skipif(
    not IN_AIRFLOW, reason="Airflow before 3.2 takes no commands of providers; tested on those that do"
)
commands = pytest.mark.parametrize(
    "command",
    [pytest.param(AIRFLOW, id="airflow", marks=needs_airflow_commands), pytest.param(MODULE, id="-m")],
)


@dataclass
class Ended:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def table(self) -> list[list[str]]:
        """The cells of all tables that were printed, without headers' rules."""
        lines = [line for line in self.out.splitlines() if "|" in line]
        return [[cell.strip() for cell in line.split("|")] for line in lines]


@dataclass
class CommandLine:
    """Runs commands where Airflow knows a sandbox as ``talkable_default``."""

    home: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str, command: list[str] = MODULE, is_started_anew: bool = False) -> Ended:
        module, *first = command[len([sys.executable, "-m"]) :]
        run = start if is_started_anew else fork
        done = run(module, *first, *arguments, environment=self.environment, folder=self.home)
        return Ended(done.returncode, done.stdout, done.stderr)

    def connect(self, sandbox: Sandbox, key: str = KEY, **extra: str) -> None:
        connection = {"conn_type": "talkable", "host": sandbox.url, "password": key}
        self.environment["AIRFLOW_CONN_TALKABLE_DEFAULT"] = json.dumps(
            connection | {"extra": {"site_slug": "my-store"} | extra}
        )


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    home = tmp_path / "airflow"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")}
    return CommandLine(
        home, environment | {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    )


@pytest.fixture
def shop(cli: CommandLine, database: URL, engines: Callable[[URL], Engine], sandboxes: Sandboxes) -> Shop:
    """A shop on either database, whose warehouse Airflow knows as ``shop_warehouse``."""
    shop = Shop(engines(database), sandboxes(generation="seed"))
    cli.connect(shop.sandbox)
    is_sqlite = database.get_backend_name() == "sqlite"
    cli.environment["AIRFLOW_CONN_SHOP_WAREHOUSE"] = json.dumps(
        {"conn_type": "sqlite", "host": database.database}
        if is_sqlite
        else {
            "conn_type": "postgres",
            "login": database.username,
            "password": database.password,
            "schema": database.database,
            # A socket's folder, which stands in the URL's query.
            "host": database.query.get("host", database.host),
        }
    )
    return shop


# --- refund


@commands
def test_refunds_are_sent_and_shown(cli: CommandLine, sandbox: Sandbox, command: list[str]) -> None:
    sandbox.talkable.create_purchase("my-store", {"order_number": "odd [/red] slug", "subtotal": 100})
    cli.connect(sandbox)
    done = cli(
        "refund", "B00K2EOONI", "odd [/red] slug", "B00K2EOONI", "--refunded-at", "2026-01-09T22:00-05:00",
        command=command, is_started_anew=True,
    )  # fmt: skip
    assert done.status == 0, done.err
    header, *rows = done.table
    assert header == ["origin_slug", "outcome", "http_status", "late", "error_message"]
    assert [row[:3] for row in rows] == [
        ["B00K2EOONI", "refunded", "200"],
        ["odd [/red] slug", "refunded", "200"],
    ]
    held = sandbox.talkable.snapshot()["my-store"]
    for slug in ("B00K2EOONI", "odd [/red] slug"):
        assert held[slug]["times_refunded"] == 1
        assert held[slug]["refunded_at"] == "2026-01-10T03:00:00.000+00:00"


@commands
def test_what_is_no_success_is_an_exit_status(cli: CommandLine, sandbox: Sandbox, command: list[str]) -> None:
    cli.connect(sandbox)
    done = cli("refund", "B00K2EOONI", "nobody's", "-o", "json", command=command)
    assert done.status == 1
    found, missing = done.json
    assert (found["origin_slug"], found["outcome"], found["http_status"]) == ("B00K2EOONI", "refunded", 200)
    assert (missing["origin_slug"], missing["outcome"]) == ("nobody's", "not_found")
    assert missing["error_message"] == "No origin found by `origin_slug`."
    assert cli("refund", "B00K2EOONI", "-o", "json", command=command).status == 0


def test_part_of_an_order_is_refunded_at_another_site(cli: CommandLine, sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(site_slugs=("my-store", "other"))
    sandbox.talkable.create_purchase("other", {"order_number": "A", "subtotal": 100})
    cli.connect(sandbox)
    cli.environment["AIRFLOW_CONN_SECOND"] = cli.environment.pop("AIRFLOW_CONN_TALKABLE_DEFAULT")
    done = cli(
        "refund", "A", "--refund-subtotal", "12.5", "--site-slug", "other", "--conn-id", "second",
        "--output", "json",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert done.json[0]["origin"]["refund_subtotal"] == 12.5
    assert [json.loads(request["body"])["site_slug"] for request in sandbox.requests] == ["other"]


MISUSES = {
    "empty": (["A", ""], "origin_slug='': holds nothing"),
    "no date": (["A", "--refunded-at", "yesterday"], "refunded_at='yesterday': is not a date and time"),
    "an amount for two": (["A", "B", "--refund-subtotal", "5"], "--refund-subtotal=5: goes with one order"),
    "an order's amount for two": (
        ["A", "B", "--order-subtotal", "5"],
        "--order-subtotal=5: goes with one order",
    ),
    "a key for two": (["A", "B", "--refund-key", "r"], "--refund-key=r: goes with one order"),
    "a key that is none": (
        ["A", "--refund-key", "None", "--ledger-conn-id", "l"],
        "refund_key='None': holds nothing",
    ),
    "a padded key": (
        ["A", "--refund-key", "r ", "--ledger-conn-id", "l"],
        "refund_key='r ': begins or ends with white space",
    ),
    "a key for nothing": (["A", "--refund-key", "r"], "--refund-key=r: goes with --ledger-conn-id"),
    "a part without a key": (
        ["A", "--refund-subtotal", "5", "--ledger-conn-id", "l"],
        "--refund-subtotal: give --refund-key as well",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), MISUSES.values(), ids=MISUSES)
def test_bad_input_is_refused_before_anything_is_sent(
    cli: CommandLine, sandbox: Sandbox, arguments: list[str], message: str
) -> None:
    cli.connect(sandbox)
    done = cli("refund", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.err
    assert not sandbox.requests


@needs_airflow_commands
def test_airflow_refuses_bad_input_as_well(cli: CommandLine, sandbox: Sandbox) -> None:
    cli.connect(sandbox)
    done = cli("refund", "A", "", command=AIRFLOW)
    assert (done.status, done.out) == (2, "")
    assert "origin_slug='': holds nothing" in done.err
    assert not sandbox.requests


def test_a_connection_that_is_not_there_is_said_in_one_line(cli: CommandLine) -> None:
    cli("db", "migrate", command=AIRFLOW[:-1])
    done = cli("refund", "A", "--conn-id", "no_such_connection")
    assert (done.status, done.out) == (1, "")
    assert "no_such_connection" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_a_connection_in_airflows_database_is_found(
    airflow: Airflow, sandbox: Sandbox, cli: CommandLine
) -> None:
    airflow.command(
        "connections", "add", "stored", "--conn-type", "talkable", "--conn-host", sandbox.url,
        "--conn-password", KEY, "--conn-extra", '{"site_slug": "my-store"}',
    )  # fmt: skip
    cli.environment["AIRFLOW_HOME"] = str(airflow.home)
    for command in [MODULE, AIRFLOW] if IN_AIRFLOW else [MODULE]:
        done = cli("refund", "B00K2EOONI", "--conn-id", "stored", "-o", "json", command=command)
        assert done.status == 0, done.err
        [result] = done.json
        assert result["outcome"] in ("refunded", "already_refunded")


def test_an_interruption_says_what_is_known_of_each(cli: CommandLine, sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(dials=Dials(latency=20))
    cli.connect(sandbox)
    slugs = [f"order-{number}" for number in range(100)]
    # Who is started in the background may have been told to ignore an interruption.
    attentive = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from airflow_provider_talkable.cli.definition import main; main()"
    )
    arguments = [sys.executable, "-c", attentive, "refund", *slugs, "-o", "json"]
    with subprocess.Popen(
        arguments, env=cli.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # Airflow takes its time to be imported where others work beside it.
        wait_for_requests(sandbox, 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    results = json.loads(out)
    assert [result["origin_slug"] for result in results] == slugs
    assert {result["outcome"] for result in results} == {"failed", "aborted"}
    assert results[0]["outcome"] == "failed"
    assert results[-1]["error_message"] == "Not tried: it was interrupted"


@commands
@pytest.mark.parametrize("is_accepted", [True, False], ids=["accepted", "refused"])
def test_the_key_is_nowhere(
    cli: CommandLine, sandbox: Sandbox, command: list[str], *, is_accepted: bool
) -> None:
    cli.connect(sandbox, SECRET)
    cli.environment["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "DEBUG"
    if is_accepted:
        sandbox.api_key = SECRET
        body = json.dumps({"ok": False, "error_message": f"You sent {SECRET} {BASE64}"}).encode()
        sandbox.dials.next(Canned(422, body))
    done = cli("refund", "B00K2EOONI", command=command)
    assert done.status == 1
    assert ("You sent ***" if is_accepted else "Talkable refused the API key") in done.out
    assert "DEBUG" in done.err.upper()
    found = {"output": (done.out + done.err).encode()}
    found |= {str(path): path.read_bytes() for path in cli.home.rglob("*") if path.is_file()}
    for where, content in found.items():
        for form, secret in FORMS.items():
            assert secret.encode() not in content, f"the key is in {where}, {form}"


@commands
def test_a_preview_sends_and_writes_nothing(cli: CommandLine, shop: Shop, command: list[str]) -> None:
    shop.order("A", "B")
    arguments = [
        "refund",
        "A",
        "--refund-subtotal",
        "30",
        "--order-subtotal",
        "30",
        "--preview",
        "-o",
        "json",
    ]
    done = cli(*arguments, command=command)
    assert done.status == 0, done.err
    shown = {
        "origin_slug": "A",
        "outcome": "to_send",
        "sends": "the whole order, no date, for A",
        "why": None,
    }
    assert done.json == [shown]
    shop.refund("B")
    shop.sync()
    before = shop.ledger()
    done = cli("refund", "A", "B", "--preview", "--ledger-conn-id", "shop_warehouse", "-o", "json")
    assert [row["outcome"] for row in done.json] == ["to_send", "refunded"]
    assert (shop.ledger(), shop.sent) == (before, ["B"])


def test_an_amount_that_reaches_the_orders_refunds_the_whole_order(cli: CommandLine, shop: Shop) -> None:
    shop.order("A")
    done = cli("refund", "A", "--refund-subtotal", "100", "--order-subtotal", "100.00", "-o", "json")
    assert done.status == 0, done.err
    [request] = shop.sandbox.requests
    assert "refund_subtotal" not in json.loads(request["body"] or "{}")


@commands
def test_refunding_through_a_ledger_is_what_a_sync_does(
    cli: CommandLine, shop: Shop, command: list[str]
) -> None:
    shop.order("A", "B")
    shop.refund("B")
    shop.sync()
    ledger = ["--ledger-conn-id", "shop_warehouse", "-o", "json"]
    done = cli("refund", "A", "B", "X", *ledger, command=command)
    assert done.status == 1, done.err
    assert [row["outcome"] for row in done.json] == ["refunded", "refunded", "not_found"]
    assert shop.sent == ["B", "A", "X"]
    # The sync takes it for settled, and a part is sent once.
    shop.refund("A", ("p", "B", None, "5"))
    assert shop.sync().skipped == 2
    for _ in range(2):
        done = cli("refund", "A", "--refund-subtotal", "5", "--refund-key", "A-1", *ledger)
        assert done.status == 0, done.err
    assert shop.events("A-1")[:2] == ["submitted", "already_refunded"]
    assert len(shop.sent) == 5


# --- ledger


def fill(shop: Shop) -> None:
    """Sync five refunds, of which one came too late, two fail, and one fails only the first time."""
    shop.order("A")
    shop.order("LATE", email="late@example.com", referral=LATE)
    shop.refund("A", "LATE", ("r3", "nobody's"), ("r4", "never seen"), ("r5", "A", "no date"))
    shop.sync()
    shop.clear()
    shop.order("never seen")
    shop.refund(("r4", "never seen"))
    shop.sync(resend=frozenset({"not_found"}))


@commands
def test_the_ledger_is_counted_by_what_it_says_last(cli: CommandLine, shop: Shop, command: list[str]) -> None:
    fill(shop)
    before = shop.ledger()
    done = cli("ledger", "summary", "--ledger-conn-id", "shop_warehouse", "-o", "json", command=command)
    assert done.status == 0, done.err
    report = done.json
    assert report["events"] == {"refunded": 3, "invalid": 1, "not_found": 1}
    assert (report["refunds"], report["failed"], report["rewarded"]) == (5, 2, 1)
    newest = {entry["refund_key"]: entry for entry in before}
    assert [failure["refund_key"] for failure in report["failures"]] == [
        entry["refund_key"]
        for entry in sorted(newest.values(), key=lambda entry: entry["entry_id"], reverse=True)
        if entry["event"] in ("invalid", "not_found")
    ]
    [missing] = [failure for failure in report["failures"] if failure["event"] == "not_found"]
    logged_at = datetime.fromisoformat(missing.pop("logged_at"))
    assert timedelta(0) <= datetime.now(UTC) - logged_at < timedelta(minutes=5)
    assert missing == {
        "site_slug": "my-store",
        "refund_key": "r3",
        "origin_slug": "nobody's",
        "event": "not_found",
        "error_message": "No origin found by `origin_slug`.",
    }
    assert shop.ledger() == before


def test_the_ledger_as_a_table(cli: CommandLine, shop: Shop) -> None:
    fill(shop)
    done = cli("ledger", "summary", "--ledger-conn-id", "shop_warehouse", "--limit", "1")
    assert done.status == 0, done.err
    assert done.table[:4] == [["event", "refunds"], ["refunded", "3"], ["invalid", "1"], ["not_found", "1"]]
    assert len(done.table) == 4 + 2
    assert "Refunds: 5, of which 2 failed\n" in done.out
    assert "Too late, the advocate had been paid: 1\n" in done.out
    assert "The newest 1 of 2 failures; see --limit" in done.out


def test_the_ledger_of_a_site_and_a_period(cli: CommandLine, shop: Shop) -> None:
    fill(shop)
    # The second sync's entries, r4's, are the last.
    *_, before_it, first, last = [entry["logged_at"] for entry in shop.ledger()]
    moments = [datetime.fromisoformat(str(moment)) for moment in (before_it, first, last)]
    # SQLite's are without offset, and UTC.
    assert {moment.utcoffset() for moment in moments} <= {None, timedelta(0)}
    before_it, first, last = (moment.isoformat() for moment in moments)
    arguments = ["--ledger-conn-id", "shop_warehouse", "--output", "json", "--site-slug", "my-store"]
    done = cli("ledger", "summary", *arguments, "--since", last)
    assert done.status == 0, done.err
    assert done.json["events"] == {"refunded": 1}
    done = cli("ledger", "summary", *arguments, "--until", first)
    assert done.json["events"] == {"refunded": 2, "invalid": 1, "not_found": 1}


def test_there_is_no_ledger_and_none_is_made(cli: CommandLine, shop: Shop) -> None:
    done = cli("ledger", "summary", "--ledger-conn-id", "shop_warehouse", "--ledger-table", "elsewhere")
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines()[-1] == (
        "There is no ledger elsewhere in shop_warehouse; the sync makes it: check ledger_conn_id, "
        "ledger_table and ledger_schema"
    )
    with closing(shop.engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
        catalogue = (
            "SELECT name FROM sqlite_master"
            if shop.engine.dialect.name == "sqlite"
            else "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        cursor.execute(catalogue)
        assert cursor.fetchall() == []


def test_a_role_that_may_only_read_is_enough(cli: CommandLine, postgres_shop: Shop, postgres: URL) -> None:
    schema = 'CREATE SCHEMA "Ours"; CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA "Ours" TO reader'
    with postgres_shop.engine.begin() as connection:
        connection.exec_driver_sql(schema)
    postgres_shop.order("A")
    postgres_shop.refund("A")
    postgres_shop.sync(ledger=Ledger(postgres_shop.engine, table="Told", schema="Ours"))
    with postgres_shop.engine.begin() as connection:
        connection.exec_driver_sql('GRANT SELECT ON "Ours"."Told" TO reader')
    cli.environment["AIRFLOW_CONN_LEDGERS"] = json.dumps(
        {
            "conn_type": "postgres",
            "login": "reader",
            "schema": postgres.database,
            "host": postgres.query["host"],
        }
    )
    arguments = ["--ledger-conn-id", "ledgers", "--ledger-table", "Told", "--ledger-schema", "Ours"]
    done = cli("ledger", "summary", *arguments, "-o", "json")
    with postgres_shop.engine.begin() as connection:
        connection.exec_driver_sql("DROP OWNED BY reader; DROP ROLE reader")
    assert done.status == 0, done.err
    assert done.json["events"] == {"refunded": 1}


def in_doubt(shop: Shop) -> None:
    """Three parts of orders are unconfirmed, of which Talkable has taken the first two."""
    for key in ("R-1001", "R-1002", "R-1003"):
        shop.order(f"order of {key}")
        shop.refund((key, f"order of {key}", None, "12.50"))
    shop.sandbox.dials.next(Reset(acted=True), Reset(acted=True), Reset(acted=False))
    assert shop.sync(pace=Pace(max_in_flight=1, initial_rate=None)).outcomes == {"unconfirmed": 3}


def taken(shop: Shop) -> list[int]:
    held = shop.sandbox.talkable.snapshot()["my-store"]
    return [held[f"order of {key}"]["times_refunded"] for key in ("R-1001", "R-1002", "R-1003")]


SETTLE = ("ledger", "settle", "--ledger-conn-id", "shop_warehouse", "--note", "not in the dashboard")


@commands
def test_a_refund_is_settled_and_its_history_shown(cli: CommandLine, shop: Shop, command: list[str]) -> None:
    in_doubt(shop)
    shop.wait_until_no_run_may_be_sending()
    done = cli(*SETTLE, "--refund-key", "R-1003", "--as", "not_refunded", command=command)
    assert done.status == 0, done.err
    assert done.out == "Settled as not_refunded: R-1003; the next sync whose query returns it sends it\n"
    shown = cli("ledger", "show", "order of R-1003", "--ledger-conn-id", "shop_warehouse", command=command)
    assert shown.status == 0, shown.err
    header, *rows = shown.table
    assert header[-3:] == ["event", "by", "why"]
    assert [row[-3] for row in rows if row[-3]] == ["submitted", "unconfirmed", "settled_not_refunded"]
    assert rows[-1][-2:] == [getpass.getuser(), "not in the dashboard"]
    as_json = cli("ledger", "show", "R-1003", "--ledger-conn-id", "shop_warehouse", "-o", "json")
    assert [entry["event"] for entry in as_json.json] == ["submitted", "unconfirmed", "settled_not_refunded"]
    assert as_json.json[-1]["settled_by"] == getpass.getuser()
    assert shop.sync().outcomes == {"refunded": 1}
    assert taken(shop) == [1, 1, 1]


@commands
def test_what_cannot_be_settled_says_why(cli: CommandLine, shop: Shop, command: list[str]) -> None:
    in_doubt(shop)
    before = shop.ledger()
    done = cli(*SETTLE, "--refund-key", "R-9", "--as", "refunded", command=command)
    assert (done.status, done.out) == (2, "")
    assert "refund_key='R-9': the ledger talkable_refund_ledger has no such refund" in done.err
    done = cli(*SETTLE[:-1], " ", "--refund-key", "R-1001", "--as", "refunded", command=command)
    assert (done.status, done.out) == (2, "")
    assert "note=' ': is empty" in done.err
    shop.sync()
    assert [entry for entry in shop.ledger() if entry["event"] != "unconfirmed"] == [
        entry for entry in before if entry["event"] != "unconfirmed"
    ]
    running = Ledger(shop.engine)
    running.open()
    running.append([running.submitted(Row("my-store", "R-1001", "order of R-1001"))])
    done = cli(*SETTLE, "--refund-key", "R-1001", "--as", "not_refunded", command=command)
    assert (done.status, done.out) == (1, "")
    assert re.search(r"a run may be sending it until 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC; look", done.err)
    done = cli("ledger", "show", "nobody's", "--ledger-conn-id", "shop_warehouse", command=command)
    assert (done.status, done.out) == (2, "")
    assert "has no refund of this key or order" in done.err


def test_the_runbook_of_refunds_in_doubt(cli: CommandLine, shop: Shop) -> None:
    """Word by word, twice, with the sync between all steps: Talkable takes each refund once."""
    in_doubt(shop)
    assert taken(shop) == [1, 1, 0]
    [count] = commands_of(block("docs/operations.md", "console", "ledger summary"))
    [show] = commands_of(block("docs/operations.md", "console", "ledger show"))
    settling = commands_of(block("docs/operations.md", "console", "ledger settle"))

    def follow(command: str) -> Ended:
        python, *module_and_arguments = shlex.split(command)
        assert (python, *module_and_arguments[:2]) == ("python", "-m", "airflow_provider_talkable")
        return cli(*module_and_arguments[2:])

    done = follow(count)
    assert [row[1] for row in done.table if row[0] == "unconfirmed"] == ["3"]
    assert [row[-3] for row in follow(show).table[1:] if row[-3]] == ["submitted", "unconfirmed"]
    # As the page says: a run that was killed may be alive, and the command says until when.
    alive = Ledger(shop.engine)
    alive.open()
    rows = [Row("my-store", key, f"order of {key}", None, Decimal("12.5")) for key in ("R-1001", "R-1003")]
    alive.append([alive.submitted(row) for row in rows])
    refused = [follow(command) for command in settling]
    assert [done.status for done in refused] == [1, 0, 1]
    assert "may be sending it until" in refused[0].err
    shop.wait_until_no_run_may_be_sending()
    for _ in range(2):
        for command in settling:
            done = follow(command)
            assert done.status == 0 or "Talkable itself has answered that it has this refund" in done.err
            shop.sync()
            assert max(taken(shop)) == 1
    assert taken(shop) == [1, 1, 1]
    assert shop.states() == {
        "R-1001": "settled_refunded",
        "R-1002": "settled_refunded",
        "R-1003": "refunded",
    }


NONSENSE = {
    "no order": (["refund"], "origin_slug"),
    "no output": (["refund", "A", "-o", "xml"], "xml"),
    "no connection": (["ledger", "summary"], "--ledger-conn-id"),
    "no date": (
        ["ledger", "summary", "--ledger-conn-id", "l", "--since", "monday"],
        "--since: 'monday' is not a date and time",
    ),
    "no moment in UTC": (
        ["ledger", "summary", "--ledger-conn-id", "l", "--until", "0001-01-01T00:00+05:00"],
        "is not a date and time",
    ),
    "no number": (["ledger", "summary", "--ledger-conn-id", "l", "--limit", "-1"], "--limit"),
    "neither": (
        ["ledger", "settle", "--refund-key", "a", "--note", "x", "--ledger-conn-id", "l", "--as", "perhaps"],
        "invalid choice: 'perhaps'",
    ),
    "no days": (
        ["ledger", "compact", "--ledger-conn-id", "l", "--before", "90"],
        "'90' is no number of days",
    ),
    "no number of days": (
        ["ledger", "compact", "--ledger-conn-id", "l", "--before", "2026-01-01"],
        "'2026-01-01' is no number of days; give e.g. 90d",
    ),
    "no command": (["ledger"], "COMMAND"),
    "backwards": (
        ["ledger", "summary", "--ledger-conn-id", "l", "--since", "2026-01-02", "--until", "2026-01-01"],
        "--until=2026-01-01T00:00:00+00:00: is not after --since=2026-01-02T00:00:00+00:00",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), NONSENSE.values(), ids=NONSENSE)
def test_arguments_that_are_none_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# --- ledger compact


def grow_old(shop: Shop, days: int) -> None:
    """Let all entries of the ledger be older."""
    long_ago = f"{time.time_ns() - days * 86_400 * 10**9:016x}"
    with shop.engine.begin() as connection:
        query = "SELECT entry_id FROM talkable_refund_ledger ORDER BY entry_id"
        for number, (entry_id,) in enumerate(connection.exec_driver_sql(query).fetchall()):
            moved = f"{int(long_ago, 16) + number:016x}{entry_id[16:]}"
            connection.exec_driver_sql(
                f"UPDATE talkable_refund_ledger SET entry_id = '{moved}' WHERE entry_id = '{entry_id}'"
            )


@commands
def test_old_entries_are_deleted(cli: CommandLine, shop: Shop, command: list[str]) -> None:
    shop.order("A", "B")
    shop.refund("A", "B", "unknown")
    shop.sync()
    grow_old(shop, 100)
    arguments = shlex.split(documented("ledger compact"))[3:]
    preview = cli(*arguments, "--preview", command=command)
    assert preview.status == 0, preview.err
    assert "PREVIEW: would delete 3 entries of 3 refunds, written before 20" in preview.out
    done = cli(*arguments, "-o", "json", command=command)
    assert done.status == 0, done.err
    assert (done.json["entries"], done.json["events"]) == (3, {"submitted": 3})
    assert [shop.events(key) for key in ("A", "B", "unknown")] == [["refunded"], ["refunded"], ["not_found"]]
    nothing = cli(*arguments, command=command)
    assert "Deleted 0 entries of 0 refunds" in nothing.out


def test_what_is_too_young_to_be_deleted_is_refused(cli: CommandLine, shop: Shop) -> None:
    shop.refund("A")
    shop.sync()
    done = cli("ledger", "compact", "--before", "0d", "--ledger-conn-id", "shop_warehouse")
    assert done.status == 2
    assert "before='0:00:00': keeps too little" in done.err


# --- sandbox


@contextmanager
def serving(command: list[str], cli: CommandLine) -> Iterator[str]:
    """A sandbox that a command runs; its URL. It has to end well."""
    arguments = [*command, "sandbox", "--port", "0", "--site", "a", "--site", "b", "--html", "1"]
    with subprocess.Popen(arguments, env=cli.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if match := re.fullmatch(r"Talkable sandbox: (http://127\.0\.0\.1:\d+)  sites: a, b\n", line):
                break
        else:
            pytest.fail("the sandbox ended before it said where it is")
        yield match[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@commands
def test_the_sandbox_is_served(cli: CommandLine, command: list[str]) -> None:
    with serving(command, cli) as url:
        answer = requests.get(f"{url}/api/v2/campaigns?site_slug=a", timeout=5)
        assert "Maintenance" in answer.text


@commands
def test_its_own_module_has_the_same_options(cli: CommandLine, command: list[str]) -> None:
    options = re.compile(r"(?<!\S)--[a-z-]+")
    own = cli("--help", command=[sys.executable, "-m", "airflow_provider_talkable.sandbox"])
    done = cli("sandbox", "--help", command=command)
    assert (own.status, done.status) == (0, 0)
    assert len(set(options.findall(own.out))) > 10
    assert set(options.findall(done.out)) == set(options.findall(own.out))


# --- the page about it


def documented(subcommand: str) -> str:
    """The command on the page that runs a subcommand."""
    [line] = re.findall(rf"^python -m airflow_provider_talkable {subcommand} .*$", PAGE, re.MULTILINE)
    return str(line)


def test_the_page_refunds_orders(cli: CommandLine, sandbox: Sandbox) -> None:
    sandbox.talkable.create_purchase("my-store", {"order_number": "B00K2EOONJ", "subtotal": 100})
    cli.connect(sandbox)
    done = cli(*shlex.split(documented("refund"))[3:])
    assert done.status == 0, done.err
    held = sandbox.talkable.snapshot()["my-store"]
    assert {slug: order["refunded_at"] for slug, order in held.items()} == dict.fromkeys(
        ("B00K2EOONI", "B00K2EOONJ"), "2026-11-20T22:30:00.000+00:00"
    )


def test_the_page_asks_the_ledger(cli: CommandLine, shop: Shop) -> None:
    fill(shop)
    period = ["--since", "2026-01-01", "--until", "2100-01-01"]
    arguments = shlex.split(documented("ledger summary"))[3:]
    assert arguments[-4::2] == period[::2]
    done = cli(*arguments[:-4], *period, "-o", "json")
    assert done.status == 0, done.err
    shown = block("docs/command-line.md", "json", "rewarded")
    assert shape(done.json) == shape(json.loads(shown))


def shape(value: Any) -> Any:
    """The keys and types of a report; of a list, its first item's."""
    match value:
        case {"events": dict()}:
            return {key: shape(item) for key, item in value.items()} | {"events": "counts"}
        case dict():
            return {key: shape(item) for key, item in value.items()}
        case [first, *_]:
            return [shape(first)]
    return type(value)


def test_the_page_runs_the_sandbox() -> None:
    options = get_parser().parse_args(shlex.split(documented("sandbox"))[3:])
    assert (options.port, options.second_refund, options.rate_limit) == (8765, "replace", 5)


LEAST = {
    "refund": "refund A",
    "ledger summary": "ledger summary --ledger-conn-id x",
    "ledger show": "ledger show A --ledger-conn-id x",
    "ledger compact": "ledger compact --before 90d --ledger-conn-id x",
    "ledger settle": "ledger settle --refund-key x --as refunded --note x --ledger-conn-id x",
}


@pytest.mark.parametrize("subcommand", LEAST)
def test_the_page_has_all_options_and_their_defaults(
    subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        get_parser().parse_args([*subcommand.split(), "--help"])
    offered = set(re.findall(r"(?<!\S)--[a-z-]+", capsys.readouterr().out)) - {"--output", "--help"}
    section = next(part for part in PAGE.split("\n## ") if documented(subcommand) in part)
    rows = re.findall(r"^\| (`--.*?) \|.*\| (.*?) ?\|$", section, re.MULTILINE)
    assert {option for options, _ in rows for option in re.findall(r"--[a-z-]+", options)} == offered
    parsed = vars(get_parser().parse_args(shlex.split(LEAST[subcommand])))
    for options, default in rows:
        name = re.findall(r"--([a-z-]+)", options)[0].replace("-", "_")
        if default and parsed.get(name) is not None:
            assert default.strip("`") == str(parsed[name])


# --- Airflow


def test_airflow_says_nothing_of_it(cli: CommandLine) -> None:
    cli.environment["PYTHONWARNINGS"] = "error::DeprecationWarning:airflow_provider_talkable"
    done = cli("version", command=AIRFLOW[:-1], is_started_anew=True)
    assert done.status == 0, done.err
    # Airflow 3.0 and 3.1 tell of their own parts there.
    assert "airflow_provider_talkable" not in done.out + done.err
    assert done.out.splitlines()[-1] == airflow_version


def test_airflow_lists_it_where_it_takes_commands_of_providers(cli: CommandLine) -> None:
    done = cli("--help", command=AIRFLOW)
    assert done.status == (0 if IN_AIRFLOW else 2)
    listed = set(re.findall(r"^ +(refund|ledger|sandbox) ", done.out, re.MULTILINE))
    assert listed == ({"refund", "ledger", "sandbox"} if IN_AIRFLOW else set())
