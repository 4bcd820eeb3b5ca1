"""What each database is asked: that its grammar has it, and that its errors are understood."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import create_engine
from sqlalchemy.dialects import registry
from sqlalchemy.engine import URL, Dialect, Engine
from sqlalchemy.exc import (
    DatabaseError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.schema import CreateColumn, CreateTable

from airflow_provider_talkable import LedgerError, Outcome
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.bounded_reads import Visible
from airflow_provider_talkable.sync.columns import columns
from airflow_provider_talkable.sync.database_errors import is_gone, is_missing_table
from airflow_provider_talkable.sync.ledger import LEDGER, Ledger
from airflow_provider_talkable.sync.overview import Period, is_newest, overview_of
from airflow_provider_talkable.sync.reconcile import REPORT
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.settling import unconfirmed
from airflow_provider_talkable.sync.tables import OwnTable

NAME = "talkable_refund_ledger"
# SQLAlchemy's name, sqlglot's, the key's type, a moment's, that of a text of any length.
DIALECTS = {
    "redshift": ("redshift", "VARCHAR(2048)", "TIMESTAMP WITH TIME ZONE", "VARCHAR(65535)"),
    "databricks": ("databricks", "STRING", "TIMESTAMP_NTZ", "STRING"),
    "mssql": ("tsql", "NVARCHAR(512) COLLATE Latin1_General_100_BIN2", "DATETIMEOFFSET", "NVARCHAR(max)"),
    "oracle": ("oracle", "VARCHAR2(512 CHAR)", "TIMESTAMP", "VARCHAR2(4000 CHAR)"),
    "trino": ("trino", "VARCHAR(512)", "TIMESTAMP WITH TIME ZONE", "VARCHAR"),
    "cockroachdb": ("postgres", "VARCHAR(512)", "TIMESTAMP WITH TIME ZONE", "TEXT"),
    "clickhousedb": ("clickhouse", "String", "DateTime64(6, 'UTC')", "String"),
    "mysql+pymysql": (
        "mysql",
        "VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin",
        "DATETIME(6)",
        "TEXT",
    ),
    "mariadb+pymysql": (
        "mysql",
        "VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
        "DATETIME(6)",
        "TEXT",
    ),
}
OF_WAREHOUSES = ("clickhousedb", "awsathena")


def dialect_of(name: str) -> Dialect:
    try:
        # MariaDB's is made from MySQL's, and is an engine's to load.
        return create_engine(f"{name}://").dialect if "pymysql" in name else registry.load(name)()
    except (NoSuchModuleError, ImportError) as error:
        where = "of `make warehouses`" if name in OF_WAREHOUSES else "for development"
        pytest.skip(f"no dialect {name} here, the environment {where} has it: {error}")


def engine_of(dialect: Dialect, database: str | None = None) -> Engine:
    # No driver is here that could connect.
    return cast("Engine", SimpleNamespace(dialect=dialect, url=URL.create("x", database=database)))


def parsed(sql: Any, dialect: Dialect, grammar: str) -> str:
    sqlglot = pytest.importorskip("sqlglot", reason="in the development environment")
    text = str(sql.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    # The position of this word is T-SQL's own.
    sqlglot.parse_one(text.replace(" NONCLUSTERED", ""), dialect=grammar)
    return " ".join(text.split())


@pytest.mark.filterwarnings("ignore:Trino does not support PRIMARY KEY")
@pytest.mark.parametrize("name", DIALECTS)
def test_the_grammar_has_what_is_asked(name: str) -> None:
    grammar, key, moment, text = DIALECTS[name]
    dialect = dialect_of(name)
    own = OwnTable(engine_of(dialect), LEDGER, NAME, None)
    table = own.table
    made = parsed(CreateTable(table), dialect, grammar)
    # ClickHouse's types say themselves that there is no NULL.
    quote, end = ("`", ",") if name == "clickhousedb" else ("", " ")
    assert f"refund_key{quote} {key}{end}" in made
    assert f"logged_at{quote} {moment}{end}" in made
    assert f"origin_slug{quote} {text}" in made
    assert ("PRIMARY KEY" in made) is (name not in ("databricks", "trino", "clickhousedb"))
    parsed(table.select().where(*is_newest(table, Period("my-store"), dialect)), dialect, grammar)
    parsed(table.select().where(table.columns.refund_key.in_(["a'b", "c"])), dialect, grammar)
    parsed(table.insert().values({"site_slug": "s", "refund_key": "k", "entry_id": "e"}), dialect, grammar)
    assert (" ADD COLUMN " in own._adding(table.columns.settles)) is (name not in ("mssql", "oracle"))
    assert CreateColumn(table.columns.settles).compile(dialect=dialect).string in own._adding(
        table.columns.settles
    )


@pytest.mark.parametrize("name", ["mssql", "databricks", "oracle"])
def test_what_a_user_may_see_takes_no_parameters(name: str) -> None:
    dialect = dialect_of(name)
    table = OwnTable(engine_of(dialect), LEDGER, NAME, None).table
    seen = table.select().where(Visible(frozenset(f"dag.{n}" for n in range(1200))).condition(table))
    compiled = seen.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    assert "'dag.1199'" in compiled.string
    assert "param_" not in compiled.string


def test_clickhouse_sorts_by_the_key_and_lets_other_columns_be_empty() -> None:
    dialect = dialect_of("clickhousedb")
    table = OwnTable(engine_of(dialect), LEDGER, NAME, "shop").table
    made = parsed(CreateTable(table), dialect, "clickhouse")
    assert made.endswith("Engine MergeTree ORDER BY (site_slug,refund_key,entry_id)")
    for column in ("`refunded_at` Nullable(DateTime64(6, 'UTC'))", "`settles` Nullable(String)"):
        assert column in made
    assert "`reward_amount` Nullable(Decimal(15, 4))" in made
    assert "`reward_paid` Nullable(Bool)" in made
    report = OwnTable(engine_of(dialect), REPORT, "discrepancies", None).table
    assert parsed(CreateTable(report), dialect, "clickhouse").endswith("Engine MergeTree ORDER BY tuple()")


def test_clickhouse_gets_moments_in_utc_whatever_the_servers_time_zone_is() -> None:
    dialect = dialect_of("clickhousedb")
    table = OwnTable(engine_of(dialect), LEDGER, NAME, None).table
    moment = datetime(2026, 1, 2, 1, 30, 0, 7000, tzinfo=timezone(timedelta(hours=2)))
    for column in (table.columns.logged_at, table.columns.refunded_at):
        write = column.type.bind_processor(dialect)
        assert write
        # A text, since the driver writes a moment in the server's zone.
        assert write(moment) == "2026-01-01 23:30:00.007000"
        assert write(None) is None


def test_clickhouse_is_asked_for_the_newest_entry_without_a_look_outside() -> None:
    dialect = dialect_of("clickhousedb")
    table = OwnTable(engine_of(dialect), LEDGER, NAME, None).table
    asked = parsed(table.select().where(*is_newest(table, Period(), dialect)), dialect, "clickhouse")
    _, inside = asked.split(" IN (SELECT ")
    assert f"FROM `{NAME}` AS `later`" in inside
    assert f"`{NAME}`." not in inside


def test_athena_keeps_no_ledger() -> None:
    # Its dialect is loaded to know that this is still its name.
    with pytest.raises(LedgerError, match="give ledger_conn_id a connection to another database"):
        OwnTable(engine_of(dialect_of("awsathena")), LEDGER, NAME, None)


def test_a_name_needs_no_quotes_where_small_letters_are_folded() -> None:
    oracle = dialect_of("oracle")
    for name, quoted in ((NAME, NAME), ("Ledger", '"Ledger"'), ("a b", '"a b"')):
        table = OwnTable(engine_of(oracle), LEDGER, name, "shop").table
        assert oracle.identifier_preparer.format_table(table) == f"shop.{quoted}"


def test_an_empty_text_is_kept_where_it_would_be_null() -> None:
    oracle = dialect_of("oracle")
    slug = next(column for column in columns() if column.name == "origin_slug").type
    write, read = slug.bind_processor(oracle), slug.result_processor(oracle, None)
    assert write
    assert read
    assert [read(write(value)) for value in ("", "A", None)] == ["", "A", None]
    assert write("") != ""


def failing(kind: type[Exception], *args: Any, **attributes: Any) -> Exception:
    """An error of a driver, as SQLAlchemy wraps it."""
    cause = type(kind.__name__, (Exception,), attributes)(*args)
    return cast("Exception", cast("Any", kind)("SELECT", None, cause))


@pytest.mark.parametrize(
    ("error", "gone", "missing"),
    [
        pytest.param(failing(OperationalError, 1142, "CREATE denied"), False, False, id="mysql-denied"),
        pytest.param(failing(OperationalError, 1045, "Access denied"), False, False, id="mysql-password"),
        pytest.param(failing(OperationalError, 1709, "column size"), False, False, id="mysql-compact"),
        pytest.param(failing(OperationalError, 1271, "mix"), False, False, id="mysql-collations"),
        pytest.param(failing(OperationalError, 2003, "no connection"), True, False, id="mysql-connect"),
        pytest.param(failing(OperationalError, 1213, "deadlock"), True, False, id="mysql-deadlock"),
        pytest.param(failing(ProgrammingError, 1146, "no table"), False, True, id="mysql-missing"),
        pytest.param(
            failing(DatabaseError, "busy", errno=2013, sqlstate="HY000"), True, False, id="mysql-connector"
        ),
        pytest.param(failing(OperationalError, "refused"), True, False, id="no-code"),
        pytest.param(failing(OperationalError, "x", pgcode="57P01"), True, False, id="postgres-shutdown"),
        pytest.param(failing(ProgrammingError, "x", pgcode="42P01"), False, True, id="postgres-missing"),
        pytest.param(failing(OperationalError, "x", sqlstate="42501"), False, False, id="postgres-denied"),
        pytest.param(failing(ProgrammingError, {"C": "42P01"}), False, True, id="redshift-missing"),
        pytest.param(failing(InterfaceError, "28000", "Login failed"), False, False, id="odbc-password"),
        pytest.param(failing(ProgrammingError, "42S02", "no object"), False, True, id="odbc-missing"),
        pytest.param(failing(OperationalError, "08S01", "link"), True, False, id="odbc-link"),
        pytest.param(failing(DatabaseError, SimpleNamespace(code=3113)), True, False, id="oracle-end"),
        pytest.param(failing(DatabaseError, SimpleNamespace(code=942)), False, True, id="oracle-missing"),
        pytest.param(failing(DatabaseError, SimpleNamespace(code=503)), True, False, id="bigquery-busy"),
        pytest.param(failing(DatabaseError, SimpleNamespace(code=404)), False, True, id="bigquery-missing"),
        pytest.param(failing(DatabaseError, SimpleNamespace(code=403)), False, False, id="bigquery-denied"),
        pytest.param(
            failing(ProgrammingError, "x", errno=2003, sqlstate="42S02"), False, True, id="snowflake-missing"
        ),
        pytest.param(
            failing(ProgrammingError, "Catalog Error: Table with name x does not exist!"),
            False, True, id="duckdb-missing",
        ),
        pytest.param(failing(OperationalError, 'database "x" does not exist'), True, False, id="no-database"),
    ],
)  # fmt: skip
def test_errors_are_told_by_their_code(error: Exception, gone: bool, missing: bool) -> None:
    assert (is_gone(error), is_missing_table(error)) == (gone, missing)


@pytest.fixture
def folding(mariadb: URL, engines: Callable[[URL], Engine]) -> Ledger:
    """A ledger of an earlier version, where the database takes `ABC` and `abc ` for the same."""
    engine = engines(mariadb)
    Ledger(engine).open()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"ALTER TABLE {NAME} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
        )
    ledger = Ledger(engine)
    ledger.open()
    return ledger


def test_refunds_are_counted_to_the_letter_where_a_database_folds_them(folding: Ledger) -> None:
    rows = [Row("my-store", key, "A") for key in ("abc", "ABC", "abc ", "\u00e4bc")]
    for row, outcome in zip(rows, list(Outcome)[:4], strict=True):
        folding.append([folding.outcome(row, RefundResult("A", outcome))])
    overview = overview_of(folding, Period(), limit=10)
    assert overview.refunds == 4
    assert {failure["refund_key"] for failure in overview.failures} == {
        row.refund_key for row, outcome in zip(rows, list(Outcome)[:4], strict=True) if not outcome.is_success
    }
    assert unconfirmed(folding) == []


def test_mariadb_keeps_any_character_whatever_the_database_is_made_for(
    mariadb: URL, engines: Callable[[URL], Engine]
) -> None:
    engine = engines(mariadb)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {mariadb.database} CHARACTER SET latin1")
    ledger = Ledger(engine)
    ledger.open()
    rows = [Row("my-store", key, "\U0001f6d2") for key in ("\U0001f6d2", "k", "K", "k ")]
    ledger.append([ledger.submitted(row) for row in rows])
    assert {key for _, key in ledger.histories(rows)} == {row.refund_key for row in rows}
    with engine.connect() as connection:
        [count] = connection.exec_driver_sql(f"SELECT count(*) FROM {NAME} WHERE refund_key = 'k'").one()
    assert count == 1


def test_a_server_that_denies_is_not_waited_for(mariadb: URL, engines: Callable[[URL], Engine]) -> None:
    with create_engine(mariadb).begin() as connection:
        connection.exec_driver_sql("CREATE USER IF NOT EXISTS nobody")
        connection.exec_driver_sql(f"GRANT SELECT ON {mariadb.database}.* TO nobody")
    with pytest.raises(LedgerError, match="the connection needs to be allowed to create it"):
        Ledger(engines(mariadb.set(username="nobody"))).open()
