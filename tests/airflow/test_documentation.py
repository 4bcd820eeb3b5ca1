"""What the README and the pages show is run, and their tables are compared with the code."""

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
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
import yaml
from airflow.providers.common.compat.sdk import DAG
from sqlalchemy import inspect as inspect_database
from sqlalchemy.engine import URL, Engine

import airflow_provider_talkable
from airflow_provider_talkable import Outcome, ReferralOutcome, RefundResult
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.get_provider_info import get_provider_info
from airflow_provider_talkable.hooks.talkable import TalkableHook
from airflow_provider_talkable.operators._ignored import IGNORED, losses
from airflow_provider_talkable.operators._warehouse import WarehouseOperator
from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sandbox.arguments import add_arguments
from airflow_provider_talkable.sync.columns import columns
from airflow_provider_talkable.sync.discrepancies import Discrepancy, Kind
from airflow_provider_talkable.sync.ledger import DEFAULT_TABLE, Ledger, TaskRun
from airflow_provider_talkable.sync.reconcile import Report, report_columns
from airflow_provider_talkable.sync.rows import ROW_COLUMNS, Row
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator
from tests.airflow.conftest import LATE, RUN_DATE, Airflow
from tests.conftest import Sandboxes
from tests.documents import ROOT, block, blocks, commands, pages, table
from tests.shop import Shop

ReadConfig = Callable[[str], ClientConfig]
PAID = {"advocate_rewards": [{"incentive_type": "rebate", "amount": 12.5, "status": "Paid"}]}


def test_the_sync(airflow: Airflow) -> None:
    folder = airflow.home / "dags"
    folder.mkdir()
    (folder / "sync.py").write_text(block("README.md", "python", "SqlToTalkableRefundOperator"))
    with closing(airflow.warehouse) as warehouse, warehouse:
        warehouse.execute("DELETE FROM refunds WHERE order_number = 'F'")
    log = airflow.run("example_talkable_first_sync", folder=folder)
    assert airflow.states() == {"sync_refunds": {"success"}}, log[-3000:]
    [previewed] = airflow.xcom("sync_refunds", "summary")
    assert previewed["outcomes"] == {"to_send": 4}
    assert not airflow.sandbox.requests
    # As the page says: remove it to send. E was refunded before the window began.
    dag, removed = re.subn(r"\n *preview=True.*", "", (folder / "sync.py").read_text())
    (folder / "sync.py").write_text(dag)
    assert removed == 1
    log = airflow.run("example_talkable_first_sync", folder=folder, date=RUN_DATE + timedelta(hours=1))
    assert airflow.states() == {"sync_refunds": {"success"}}, log[-3000:]
    [summary] = [one for one in airflow.xcom("sync_refunds", "summary") if "to_send" not in one["outcomes"]]
    assert summary["outcomes"] == {"refunded": 3, "not_found": 1}
    example = block("docs/sync.md", "json", "duplicates")
    assert list(json.loads(example)) == list(summary)


def test_the_queries_over_the_ledger(shop: Shop, postgres_shop: Shop) -> None:
    for where in (shop, postgres_shop):
        where.order("A")
        where.order("B", referral=LATE)
        where.refund("A", "B", "X")
        where.sync()
        gave_way = where.syncs[-1]._ledger
        hidden = Row("my-store", "B", "B")
        gave_way.append([gave_way.outcome(hidden, RefundResult("B", Outcome.ABORTED))])
        assert where.sync().skipped == 3
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
            failed = connection.exec_driver_sql(block("docs/ledger.md", "sql", "event NOT IN")).all()
            late = connection.exec_driver_sql(block("docs/ledger.md", "sql", "AND reward_paid")).all()
            unsettled = connection.exec_driver_sql(block("docs/ledger.md", "sql", "FROM refunds r")).all()
        assert [row[2:4] for row in failed] == [("X", "not_found")]
        assert [row[1] for row in late] == ["B"]
        assert [row[0] for row in unsettled] == ["new"]


def test_the_query_over_what_talkable_counts(
    postgres: URL, sqlite: URL, engines: Callable[[URL], Engine], sandboxes: Sandboxes
) -> None:
    for url in (postgres, sqlite):
        where = Shop(engines(url), sandboxes(second_refund="replace"))
        where.order("A", "B")
        where.refund(("a1", "A", None, 30), ("a2", "A", None, 20), ("b1", "B", None, 30))
        where.sync()
        with where.engine.connect() as connection:
            rows = connection.exec_driver_sql(block("docs/ledger.md", "sql", "abs(counted")).all()
        assert [tuple(row) for row in rows] == [("my-store", "A", "a2", 20, 20, 50)]


def test_the_queries_at_night(shop: Shop, postgres_shop: Shop) -> None:
    for where in (shop, postgres_shop):
        where.order("A", "B", "C", "D")
        where.refund("A", "X")
        where.sync()
        where.sandbox.dials.errors = 1
        where.refund(("b", "B", "2026-01-02T00:00:00Z"), ("c", "C", "2026-01-01T00:00:00Z"))
        where.refund(("d", "D", "2026-01-03T00:00:00Z", "5"))
        where.sync(policy=RetryPolicy(max_attempts=1))
        with where.engine.connect() as connection:
            at_stake = connection.exec_driver_sql(block("docs/operations.md", "sql", "whole_orders")).all()
            newest = connection.exec_driver_sql(block("docs/operations.md", "sql", "last_entry")).all()
        assert [(*row[:4], str(row[4])[:10]) for row in at_stake] == [
            ("my-store", "failed", 2, 2, "2026-01-01"),
            ("my-store", "unconfirmed", 1, 0, "2026-01-03"),
        ]
        latest = max(str(entry["logged_at"]) for entry in where.ledger())
        assert [(row[0], str(row[1])) for row in newest] == [("my-store", latest)]


def test_the_query_over_the_report(shop: Shop, postgres_shop: Shop) -> None:
    for where in (shop, postgres_shop):
        late = Discrepancy(Kind.REWARDED, Row("my-store", "a", "A", currency="EUR"), "", None, PAID)
        for run_id, count in (("earlier", 5), ("latest", 2)):
            task_run = TaskRun("shop", run_id, "reconcile", -1, 1)
            report = Report(where.engine, table="talkable_refund_discrepancies", task_run=task_run)
            report.open()
            report.write([late] * count)
        with where.engine.connect() as connection:
            [row] = connection.exec_driver_sql(block("docs/reconciliation.md", "sql", "paid")).all()
        assert tuple(row) == ("EUR", 2, 25)


def test_the_referrals(airflow: Airflow, engines: Callable[[URL], Engine]) -> None:
    """The reconciliation, the operator and the sensor, in one DAG."""
    folder = airflow.home / "dags"
    folder.mkdir()
    examples = (
        block("docs/reconciliation.md", "python", "TalkableRefundReconcileOperator")
        + block("docs/referrals.md", "python", "TalkableReferralOperator")
        + block("docs/referrals.md", "python", "TalkableReferralSensor")
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
    example = block("docs/reconciliation.md", "json", "discrepancies")
    assert list(json.loads(example)) == list(summary)
    assert list(json.loads(example)["shown"][0]) == list(summary["shown"][0])
    [results] = airflow.xcom("void", "return_value")
    assert [(result["outcome"], result["referral"]["status"]) for result in results] == [
        ("updated", "voided")
    ] * 2
    [result] = re.findall(r"`(\{\"origin_slug\", .*?\})`", pages()["docs/referrals.md"])
    assert re.findall(r'"(\w+)"', result) == list(results[0])
    [referral] = airflow.xcom("wait", "return_value")
    assert referral["status"] == "voided"


def by_default(rows: list[list[str]], what: str) -> list[str]:
    """The outcomes that a table says this of, in its third column."""
    return [row[0].strip("`") for row in rows if row[2] == what]


def test_the_tables_of_referrals() -> None:
    rows = table("docs/reconciliation.md", "`missing`")
    assert [row[0].strip("`") for row in rows] == list(Kind)
    rows = table("docs/referrals.md", "`updated`")
    assert [row[0].strip("`") for row in rows] == list(ReferralOutcome)
    assert by_default(rows, "fails") == [one for one in losses(ReferralOutcome) if one not in IGNORED]
    assert by_default(rows, "ignored") == list(IGNORED)
    rows = table("docs/reconciliation.md", "`checked_at`")
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert named == [column.name for column in report_columns()]


@pytest.mark.parametrize(
    ("warehouse", "recipe"),
    [
        ("postgres_default", block("docs/warehouses.md", "python", 'sql_conn_id="postgres_default"')),
        ("snowflake_default", block("docs/warehouses.md", "python", 'sql_conn_id="snowflake_default"')),
        ("google_cloud_default", block("docs/warehouses.md", "python", 'sql_conn_id="google_cloud_default"')),
        ("mysql_default", block("docs/warehouses.md", "python", 'sql_conn_id="mysql_default"')),
        ("duckdb_default", block("docs/warehouses.md", "python", 'sql_conn_id="duckdb_default"')),
        ("databricks_default", block("docs/warehouses.md", "python", 'sql_conn_id="databricks_default"')),
        ("redshift_default", block("docs/warehouses.md", "python", 'sql_conn_id="redshift_default"')),
    ],
    ids=["postgres", "snowflake", "bigquery", "mysql", "duckdb", "databricks", "redshift"],
)
def test_the_recipes_can_be_parsed(warehouse: str, recipe: str) -> None:
    names = {"SqlToTalkableRefundOperator": SqlToTalkableRefundOperator}
    with DAG("recipe", schedule=None) as dag:
        exec(recipe, names)
    [task] = dag.tasks
    assert isinstance(task, SqlToTalkableRefundOperator)
    assert task.sql_conn_id == warehouse


def test_the_table_of_columns() -> None:
    rows = table("docs/sync.md", "`origin_slug`")
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[0])} == set(ROW_COLUMNS)


def test_the_table_of_the_ledger() -> None:
    rows = table("docs/ledger.md", "`site_slug`, `refund_key`")
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert named == {column.name for column in columns()}


def described(engine: Engine) -> dict[str, object]:
    """Each table of a database: its columns, key and indexes."""
    seen = inspect_database(engine)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(table)],
            seen.get_pk_constraint(table)["constrained_columns"],
            sorted(map(str, seen.get_indexes(table))),
        )
        for table in seen.get_table_names()
    }


def test_the_statements_make_the_tables_that_the_code_makes(
    postgres_server: Callable[[], URL], engines: Callable[[URL], Engine]
) -> None:
    page, code = (engines(postgres_server()) for _ in range(2))
    with page.begin() as connection:
        connection.exec_driver_sql(block("docs/reference/tables.md", "sql", "talkable_refund_ledger"))
        connection.exec_driver_sql(block("docs/reference/tables.md", "sql", "talkable_refund_discrepancies"))
    Ledger(code).open()
    Report(code, table="talkable_refund_discrepancies").open()
    assert len(described(code)) == 2
    assert described(page) == described(code)


def test_the_defaults_in_the_text() -> None:
    defaults = {
        name: parameter
        for operator in (WarehouseOperator, SqlToTalkableRefundOperator)
        for name, parameter in inspect.signature(operator).parameters.items()
    }
    rows = table("docs/operations.md", "`max_in_flight`")
    for name, told, *_ in rows:
        default = defaults[name.strip("`")].default
        assert told.split()[0] == ("none" if default is None else f"{default:g}")
    assert "`abort_after` (20)" in pages()["docs/sync.md"]
    assert "`max_failure_ratio` (0)" in pages()["docs/sync.md"]
    assert (defaults["abort_after"].default, defaults["max_failure_ratio"].default) == (20, 0)


def test_the_dag(airflow: Airflow) -> None:
    dag = block("README.md", "python", 'DAG("refunds"')
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
    exec(block("docs/hook.md", "python", "import TalkableHook"), {})
    assert "refunded None" in capsys.readouterr().out


def test_the_result() -> None:
    result = block("docs/understand/outcomes.md", "json", "outcome")
    assert list(json.loads(result)) == list(RefundResult("A", Outcome.REFUNDED).as_dict())


@pytest.fixture
def read_config(monkeypatch: pytest.MonkeyPatch) -> ReadConfig:
    """Reads a connection the way Airflow reads an environment variable."""

    def read(text: str) -> ClientConfig:
        monkeypatch.setenv("AIRFLOW_CONN_README", text)
        return TalkableHook("readme").get_conn().config

    return read


def test_the_connection_in_the_environment(read_config: ReadConfig) -> None:
    [least] = commands(block("README.md", "console", "AIRFLOW_CONN"))
    exports = commands(block("docs/connection.md", "console", "AIRFLOW_CONN"))
    assert len(exports) == 2
    config, *configs = [read_config(shlex.split(c)[1].split("=", 1)[1]) for c in (least, *exports)]
    assert config == ClientConfig.parse(api_key="YOUR_API_KEY", site_slug="my-store")
    assert set(configs) == {
        ClientConfig.parse(api_key="YOUR_API_KEY", site_slug="my-store", auth_scheme="bearer")
    }
    own_host = re.findall(r"`(talkable://:[^`]*)`", pages()["docs/connection.md"])
    assert [read_config(uri).base_url for uri in own_host] == ["https://refer.shop.example"]


def test_the_connection_on_the_command_line(airflow: Airflow) -> None:
    [command] = commands(block("docs/connection.md", "console", "connections add"))
    output = airflow.command(*shlex.split(command)[1:])
    assert "Successfully added" in output
    [row] = airflow.metadata("SELECT conn_type FROM connection WHERE conn_id = 'talkable_default'")
    assert row == ("talkable",)


def test_the_local_talkable(sandbox: Sandbox, read_config: ReadConfig) -> None:
    [serve] = commands(block("docs/sandbox.md", "console", "talkable.sandbox"))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args(shlex.split(serve)[3:])
    assert (options.port, options.second_refund, options.errors) == (8765, "refuse", 0.02)

    [uri] = re.findall(r"`(talkable://http://[^`]*)`", pages()["docs/sandbox.md"])
    config = read_config(uri)
    assert (config.base_url, config.api_key) == ("http://127.0.0.1:8765", options.api_key)
    assert config.site_slug == "my-store"

    [register] = commands(block("docs/sandbox.md", "console", "curl"))
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
    rows = table("docs/understand/outcomes.md", "`refunded`")
    assert [row[0].strip("`") for row in rows] == list(Outcome)
    assert by_default(rows, "fails") == [one for one in losses(Outcome) if one not in IGNORED]
    assert by_default(rows, "ignored") == list(IGNORED)


def test_the_table_of_connection_fields() -> None:
    rows = table("docs/connection.md", "password")
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert named == set(get_provider_info()["connection-types"][0]["conn-fields"])


def test_the_table_of_messages_quotes_the_code() -> None:
    rows = table("docs/operations.md", "`API key")
    said = []
    for path in Path(airflow_provider_talkable.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                # Whoever reads the message sees one thing where two parts follow each other.
                said.append(re.sub("…+", "…", "".join(map(str, parts))))
            elif isinstance(node, ast.Constant):
                said.append(str(node.value))
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]*)`", row[0])]
    assert len(quoted) > 15
    for quote in quoted:
        assert any(quote in message for message in said), quote


def test_the_make_targets() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", pages()["README.md"], re.MULTILINE))
    assert {"demo", "test", "lint", "docs"} <= named <= targets


def test_the_figures_were_measured() -> None:
    [section] = re.findall(
        r"^## How fast, how safe\n(.*?)^## ", pages()["README.md"], re.MULTILINE | re.DOTALL
    )
    figures = set(re.findall(r"\d[\d,.]*(?<![,.])", section))
    assert len(figures) > 8
    results = "".join((ROOT / folder / "RESULTS.md").read_text() for folder in ("benchmarks", "faults"))
    assert figures <= set(re.findall(r"\d[\d,.]*(?<![,.])", results))


def test_the_first_screen_names_what_is_tested() -> None:
    nox = (ROOT / "noxfile.py").read_text()
    for what, pattern in (("Airflow", r'"([23]\.\d+)": \('), ("Python", r'"(3\.\d+)"[,)]')):
        [versions] = [row[1] for row in table("README.md", "Airflow") if row[0] == what]
        tested = set(re.findall(pattern, nox[nox.index("PYTHONS = {") : nox.index("SMOKE = [")]))
        previews = re.findall(rf"\| {what} (\S+) \|", pages()["docs/reference/previews.md"])
        missing = tested - set(versions.split(", ")) - set(previews)
        assert tested, what
        assert not missing, what


def test_the_versions_are_those_that_are_tested() -> None:
    rows = table("docs/reference/versions.md", "Airflow")
    for what in ("Airflow", "Python"):
        [first_screen] = [row[1] for row in table("README.md", "Airflow") if row[0] == what]
        named = sorted(version for row in rows if row[0] == what for version in row[1].split(", "))
        assert named == sorted(first_screen.split(", "))


def test_the_links_of_the_readme_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", pages()["README.md"])
    assert len(targets) > 10
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_reference_has_all_public_names() -> None:
    text = pages()["docs/reference/api.md"]
    shown = set(re.findall(r"auto(?:class|exception):: (\S+)", text))
    package = "airflow_provider_talkable"
    public = {f"{package}.{name}" for name in airflow_provider_talkable.__all__ if name[0] != "_"}
    kinds = ("hooks", "links", "operators", "policies", "sensors", "transfers", "triggers")
    for path in (ROOT / package).glob("*/[!_]*.py"):
        if path.parent.name in kinds:
            module = f"{package}.{path.parent.name}.{path.stem}"
            public |= {
                f"{module}.{node.name}"
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.ClassDef) and node.name.startswith(("Talkable", "SqlTo"))
            }
    assert len(public) > 25
    assert public <= shown


def test_the_examples_shown_are_run() -> None:
    """Airflow runs each in the tests of the example DAGs."""
    shown = {
        name
        for text in pages().values()
        for name in re.findall(r"^```{literalinclude} \.\./example_dags/(\w+)\.py$", text, re.MULTILINE)
    }
    tests = [Path(__file__), Path(__file__).with_name("test_example_dags.py")]
    tested = {name for path in tests for name in re.findall(r'airflow\.run\(\s*"(\w+)"', path.read_text())}
    assert {path.stem for path in (ROOT / "example_dags").glob("*.py")} == shown <= tested


def test_the_source_in_dbt_has_the_ledgers_columns() -> None:
    project = yaml.safe_load(block("docs/ledger.md", "yaml", "exposures"))
    [source] = project["sources"]
    [table] = source["tables"]
    assert table["name"] == DEFAULT_TABLE
    assert [column["name"] for column in table["columns"]] == [column.name for column in columns()]
    never_null = {column["name"] for column in table["columns"] if "not_null" in column.get("data_tests", ())}
    assert never_null == {column.name for column in columns() if not column.nullable}
    assert all(column["description"] for column in table["columns"])
    assert source["config"]["loaded_at_field"] == "logged_at"
    [exposure] = project["exposures"]
    assert exposure["type"] in ("dashboard", "notebook", "analysis", "ml", "application")
    assert exposure["depends_on"] == ["ref('refunds')"]


def test_the_commands_run_in_continuous_integration() -> None:
    """They run everything, this test too: they are run there, not here."""
    assert set(commands(block("README.md", "console", "make demo"))) <= set(
        (ROOT / ".ci" / "run").read_text().splitlines()
    )


def test_every_block_is_run() -> None:
    """By a test that asks for it with ``block``, or by a module of tests that reads its page by name."""
    modules = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    taken = set()
    for source in modules.values():
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(
                    func=ast.Name("block"),
                    args=[ast.Constant(str(page)), ast.Constant(str(language)), ast.Constant(str(words))],
                ):
                    taken.add((page, language, block(page, language, words)))
    for own in ("test_documentation.py", "test_first_steps.py"):
        del modules[Path(__file__).with_name(own)]
    read_elsewhere = {
        page
        for page in pages()
        if page.startswith("docs/") and any(f'{Path(page).name}"' in source for source in modules.values())
    }
    shown = {(page, *found) for page, text in pages().items() for found in blocks(text)}
    left = {(page, text) for page, _, text in shown - taken if page not in read_elsewhere}
    assert not left, f"no test runs these blocks: {left}"


def test_no_block_hides_from_the_tests() -> None:
    """A fence without a language, or an indented one, would not be seen."""
    for page, text in pages().items():
        fences = re.findall(r"^\s*(```.*|~~~.*)$", text, re.MULTILINE)
        opening = fences[::2]
        assert all(re.fullmatch(r"```(\w+|\{[\w-]+\}.*)", fence) for fence in opening), page
        assert len(opening) == len(blocks(text)) + len(re.findall(r"^```\{", text, re.MULTILINE)), page
