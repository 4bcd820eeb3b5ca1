"""The tables that the page of the examples describes are those that the examples read."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest

from tests.airflow.conftest import EXAMPLES
from tests.documents import block, table

QUERIES = [
    pytest.param(query, id=f"{path.stem}-{number}")
    for path in sorted(EXAMPLES.glob("*.py"))
    for number, query in enumerate(re.findall(r'sql="""(.*?)"""', path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("query", QUERIES)
def test_an_examples_query_reads_the_tables_of_the_page(query: str) -> None:
    with closing(sqlite3.connect(":memory:")) as warehouse:
        warehouse.executescript(block("docs/examples.md", "sql", "CREATE TABLE refunds"))
        values = dict.fromkeys(re.findall(r":(\w+)", query))
        assert warehouse.execute(query, values).fetchall() == []


def test_the_page_names_each_example() -> None:
    named = {row[0].strip("`") for row in table("docs/examples.md", "`example_talkable_first_sync`")}
    assert named == {path.stem for path in EXAMPLES.glob("*.py")}
