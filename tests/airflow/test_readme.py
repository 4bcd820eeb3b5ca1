"""The README's examples are run, and its tables are compared with the code."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import shlex
import textwrap
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from airflow.providers.common.compat.sdk import DAG
from sqlalchemy.engine import URL, Engine

import airflow_provider_talkable
from airflow_provider_talkable import Outcome, ReferralOutcome, RefundResult
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.get_provider_info import get_provider_info
from airflow_provider_talkable.hooks.talkable import TalkableHook
from airflow_provider_talkable.operators._warehouse import WarehouseOperator
from airflow_provider_talkable.operators.referral import LOSSES as REFERRAL_LOSSES
from airflow_provider_talkable.operators.refund import LOSSES
from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sandbox.__main__ import _parser
from airflow_provider_talkable.sync.discrepancies import Discrepancy, Kind
from airflow_provider_talkable.sync.ledger import Ledger, TaskRun, _columns
from airflow_provider_talkable.sync.reconcile import Report, report_columns
from airflow_provider_talkable.sync.rows import ROW_COLUMNS, Row
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator
from tests.airflow.conftest import LATE, Airflow
from tests.shop import Shop

ROOT = Path(__file__).parents[2]
ReadConfig = Callable[[str], ClientConfig]
README = (ROOT / "README.md").read_text()
PAID = {"advocate_rewards": [{"amount": 12.5, "status": "Paid"}]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The commands of all console blocks, continued lines joined."""
    text = "".join(blocks("console")).replace("\\\n", " ")
    # A quoted JSON goes over two lines as it is.
    return re.findall(r"(?:[^\n']|'[^']*')+", text)


def tables() -> list[list[list[str]]]:
    """The rows of each table, without its heading."""
    found = re.findall(r"(?:^\|.*\n)+", README, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()[2:]]
        for table in found
    ]


def python(beginning: str) -> str:
    """The Python example that imports or calls this first of all of ours."""
    [block] = [block for block in blocks("python") if beginning in block]
    return block


def test_the_sync(airflow: Airflow) -> None:
    folder = airflow.home / "dags"
    folder.mkdir()
    (folder / "sync.py").write_text(python('DAG("sync"'))
    with closing(airflow.warehouse) as warehouse, warehouse:
        warehouse.execute("DELETE FROM refunds WHERE order_number IN ('D', 'F')")
    log = airflow.run("sync", folder=folder)
    assert airflow.states() == {"sync_refunds": {"success"}}, log[-3000:]
    [summary] = airflow.xcom("sync_refunds", "summary")
    assert summary["outcomes"] == {"refunded": 4}
    example, *_ = blocks("json")
    assert list(json.loads(example)) == list(summary)


def test_the_queries_over_the_ledger(shop: Shop, postgres_shop: Shop) -> None:
    for where in (shop, postgres_shop):
        where.order("A")
        where.order("B", referral=LATE)
        where.refund("A", "B", "X")
        where.sync()
        with where.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE refunds ADD COLUMN refund_id TEXT")
            connection.exec_driver_sql("ALTER TABLE refunds ADD COLUMN order_number TEXT")
            connection.exec_driver_sql(
                "UPDATE refunds SET refund_id = origin_slug, refunded_at = '2026-10-05 00:00:00'"
            )
            connection.exec_driver_sql(
                "INSERT INTO refunds (refund_id, refunded_at)"
                " VALUES ('new', '2026-10-06'), ('old', '2026-09-01')"
            )
            failed, late, unsettled = (connection.exec_driver_sql(query).all() for query in blocks("sql")[:3])
        assert [row[2:4] for row in failed] == [("X", "not_found")]
        assert [row[1] for row in late] == ["B"]
        assert [row[0] for row in unsettled] == ["new"]


def test_the_query_over_the_report(shop: Shop, postgres_shop: Shop) -> None:
    for where in (shop, postgres_shop):
        late = Discrepancy(Kind.REWARDED, Row("my-store", "a", "A", currency="EUR"), "", None, PAID)
        for run_id, count in (("earlier", 5), ("latest", 2)):
            task_run = TaskRun("shop", run_id, "reconcile", -1, 1)
            report = Report(where.engine, table="talkable_refund_discrepancies", task_run=task_run)
            report.open()
            report.write([late] * count)
        with where.engine.connect() as connection:
            [row] = connection.exec_driver_sql(blocks("sql")[3]).all()
        assert tuple(row) == ("EUR", 2, 25)


def test_the_referrals(airflow: Airflow, engines: Callable[[URL], Engine]) -> None:
    """The reconciliation, the operator and the sensor, in one DAG."""
    folder = airflow.home / "dags"
    folder.mkdir()
    examples = "".join(
        python(f"import Talkable{name}\n")
        for name in ("RefundReconcileOperator", "ReferralOperator", "ReferralSensor")
    )
    (folder / "referrals.py").write_text(
        "from airflow.providers.common.compat.sdk import DAG\n"
        'with DAG("referrals", schedule=None) as dag:\n'
        + textwrap.indent(examples, "    ")
        + '    dag.get_task("void") >> dag.get_task("wait")\n'
    )
    Ledger(engines(URL.create("sqlite", database=str(airflow.home / "warehouse.sqlite")))).open()
    talkable = airflow.sandbox.talkable
    talkable.create_purchase("my-store", {"order_number": "B00K2EOONI", "email": "jane@example.com"})
    event = {"event_category": "newsletter_subscription", "event_number": 42}
    talkable.create_event("my-store", event)
    log = airflow.run("referrals", folder=folder)
    assert set().union(*airflow.states().values()) == {"success"}, log[-3000:]
    [summary] = airflow.xcom("reconcile", "return_value")
    assert summary["discrepancies"]["missing"] == 5
    _, _, example = blocks("json")
    assert list(json.loads(example)) == list(summary)
    assert list(json.loads(example)["shown"][0]) == list(summary["shown"][0])
    [results] = airflow.xcom("void", "return_value")
    assert [(result["outcome"], result["referral"]["status"]) for result in results] == [
        ("updated", "voided")
    ] * 2
    [result] = re.findall(r"`(\{\"origin_slug\", .*?\})`", README)
    assert re.findall(r'"(\w+)"', result) == list(results[0])
    [referral] = airflow.xcom("wait", "return_value")
    assert referral["status"] == "voided"


def test_the_tables_of_referrals() -> None:
    [rows] = [table for table in tables() if table[0][0] == "`missing`"]
    assert [row[0].strip("`") for row in rows] == list(Kind)
    [rows] = [table for table in tables() if table[0][0] == "`updated`"]
    assert [row[0].strip("`") for row in rows] == list(ReferralOutcome)
    assert [row[0].strip("`") for row in rows if row[2] == "fails"] == list(REFERRAL_LOSSES)
    [rows] = [table for table in tables() if table[0][0].startswith("`checked_at`")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert named == [column.name for column in report_columns()]


@pytest.mark.parametrize("warehouse", ["postgres", "snowflake", "google_cloud"])
def test_the_recipes_can_be_parsed(warehouse: str) -> None:
    recipe = python(f'sql_conn_id="{warehouse}_default"')
    names = {"SqlToTalkableRefundOperator": SqlToTalkableRefundOperator}
    with DAG("recipe", schedule=None) as dag:
        exec(recipe, names)
    [task] = dag.tasks
    assert isinstance(task, SqlToTalkableRefundOperator)
    assert task.sql_conn_id == f"{warehouse}_default"


def test_the_table_of_columns() -> None:
    [rows] = [table for table in tables() if table[0][0] == "`origin_slug`"]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[0])} == set(ROW_COLUMNS)


def test_the_table_of_the_ledger() -> None:
    [rows] = [table for table in tables() if table[0][0].startswith("`site_slug`, `refund_key`")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert named == {column.name for column in _columns()}


def test_the_defaults_in_the_text() -> None:
    defaults = {
        name: parameter
        for operator in (WarehouseOperator, SqlToTalkableRefundOperator)
        for name, parameter in inspect.signature(operator).parameters.items()
    }
    [rows] = [table for table in tables() if table[0][0] == "`max_in_flight`"]
    for name, told, *_ in rows:
        default = defaults[name.strip("`")].default
        assert told.split()[0] == ("none" if default is None else f"{default:g}")
    assert "`abort_after` (20)" in README
    assert "`max_failure_ratio` (0)" in README
    assert (defaults["abort_after"].default, defaults["max_failure_ratio"].default) == (20, 0)


def test_the_dag(airflow: Airflow) -> None:
    dag = python('DAG("refunds"')
    folder = airflow.home / "dags"
    folder.mkdir()
    (folder / "refunds.py").write_text(dag)
    with closing(airflow.warehouse) as warehouse, warehouse:
        warehouse.execute("DELETE FROM refunded_orders WHERE order_number = 'D'")
        now = datetime.now(UTC).isoformat()
        warehouse.execute("UPDATE refunded_orders SET refunded_at = ? WHERE order_number = 'B'", (now,))
    log = airflow.run("refunds", folder=folder)
    assert airflow.states() == {"refunded_orders": {"success"}, "refund": {"success"}}, log[-3000:]
    [results] = airflow.xcom("refund", "return_value")
    assert [result["origin_slug"] for result in results] == ["B"]


def test_the_hook(sandbox: Sandbox, connect: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    connect(sandbox)
    exec(python("import TalkableHook"), {})
    assert "refunded None" in capsys.readouterr().out


def test_the_result() -> None:
    _, result, _ = blocks("json")
    assert list(json.loads(result)) == list(RefundResult("A", Outcome.REFUNDED).as_dict())


@pytest.fixture
def read_config(monkeypatch: pytest.MonkeyPatch) -> ReadConfig:
    """Reads a connection the way Airflow reads an environment variable."""

    def read(text: str) -> ClientConfig:
        monkeypatch.setenv("AIRFLOW_CONN_README", text)
        return TalkableHook("readme").get_conn().config

    return read


def test_the_connection_in_the_environment(read_config: ReadConfig) -> None:
    exports = [shlex.split(c)[1].split("=", 1)[1] for c in commands() if c.startswith("export")]
    assert len(exports) == 2
    configs = {read_config(text) for text in exports}
    assert configs == {ClientConfig.parse(api_key="YOUR_API_KEY", site_slug="my-store", auth_scheme="bearer")}
    own_host = re.findall(r"`(talkable://:[^`]*)`", README)
    assert [read_config(uri).base_url for uri in own_host] == ["https://refer.shop.example"]


def test_the_connection_on_the_command_line(airflow: Airflow) -> None:
    [command] = [c for c in commands() if c.startswith("airflow connections add")]
    airflow.command("db", "migrate")
    output = airflow.command(*shlex.split(command)[1:])
    assert "Successfully added" in output
    [row] = airflow.metadata("SELECT conn_type FROM connection WHERE conn_id = 'talkable_default'")
    assert row == ("talkable",)


def test_the_local_talkable(sandbox: Sandbox, read_config: ReadConfig) -> None:
    [serve] = [c for c in commands() if "talkable.sandbox" in c]
    options = _parser().parse_args(shlex.split(serve)[3:])
    assert (options.port, options.generation, options.errors) == (8765, "seed", 0.02)

    [uri] = re.findall(r"`(talkable://http://[^`]*)`", README)
    config = read_config(uri)
    assert (config.base_url, config.api_key) == ("http://127.0.0.1:8765", options.api_key)
    assert config.site_slug == "my-store"

    [register] = [c for c in commands() if c.startswith("curl")]
    sandbox.talkable.sites["my-store"].clear()
    register = register.replace("http://127.0.0.1:8765", sandbox.url).replace(
        options.api_key, sandbox.api_key
    )
    # What curl would do with it: not every machine has curl.
    curl = argparse.ArgumentParser()
    for flag, name in (("-u", "user"), ("-H", "header"), ("-d", "data")):
        curl.add_argument(flag, dest=name, required=True)
    curl.add_argument("url")
    given = curl.parse_args(shlex.split(register)[1:])
    answer = requests.post(
        given.url,
        data=given.data,
        headers=dict([given.header.split(": ")]),
        auth=tuple(given.user.split(":")),
        timeout=5,
    )
    assert answer.json()["ok"] is True
    assert list(sandbox.talkable.sites["my-store"]) == ["B00K2EOONI"]


def test_the_table_of_outcomes() -> None:
    [rows] = [table for table in tables() if table[0][0] == "`refunded`"]
    assert [row[0].strip("`") for row in rows] == list(Outcome)
    assert [row[0].strip("`") for row in rows if row[2] == "fails"] == list(LOSSES)


def test_the_table_of_connection_fields() -> None:
    [rows] = [table for table in tables() if table[0][0].startswith("password")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert named == set(get_provider_info()["connection-types"][0]["conn-fields"])


def test_the_table_of_messages_quotes_the_code() -> None:
    [rows] = [table for table in tables() if table[0][0].startswith("`API key")]
    said = []
    for path in Path(airflow_provider_talkable.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                said.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant):
                said.append(str(node.value))
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]*)`", row[0])]
    assert len(quoted) > 15
    for quote in quoted:
        assert any(quote in message for message in said), quote


def test_the_make_targets() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", README, re.MULTILINE))
    assert {"demo", "test", "lint"} <= named <= targets


def test_the_figures_were_measured() -> None:
    [section] = re.findall(r"^## How fast, how safe\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    figures = set(re.findall(r"\d[\d,.]*(?<![,.])", section))
    assert len(figures) > 15
    results = "".join((ROOT / folder / "RESULTS.md").read_text() for folder in ("benchmarks", "faults"))
    assert figures <= set(re.findall(r"\d[\d,.]*(?<![,.])", results))


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    headings = {
        re.sub(r"[^a-z ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)", README, re.M)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in headings
