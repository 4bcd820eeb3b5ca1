"""How entries get into the ledger's table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby

from sqlalchemy import Table, bindparam, cast, column, func, select
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Insert

from airflow_provider_talkable.sync.columns import Values
from airflow_provider_talkable.sync.statement_sizes import most_parameters, most_rows

_AT_A_TIME = 500  # keys in one statement
# Entries are flat: not to look for circles takes a third off.
_JSON = json.JSONEncoder(default=str, check_circular=False)
# The databases whose drivers send a list of rows as one statement.
_IN_BULK = ("mysql", "mariadb", "oracle")


class Inserts:
    """Writes entries with a connection that is open.

    :param table: The table.
    :param same: What is the same in all entries, by column.
    """

    def __init__(self, table: Table, same: Mapping[str, object]) -> None:
        self._table = table
        self._same = dict(same)

    def insert(self, connection: Connection, entries: Sequence[Values]) -> None:
        """Write entries."""
        if connection.dialect.name == "postgresql":
            # As one text instead of a parameter for each value takes a fifth of the time.
            given = {"entries": _JSON.encode(entries)} | self._same
            connection.execute(self._insert_json, given)
            return
        if connection.dialect.name == "sqlite":
            # Their columns differ: what is submitted has none of what comes back.
            for _, alike in groupby(sorted(entries, key=len), key=len):
                connection.execute(self._table.insert(), [entry | self._same for entry in alike])
            return
        nothing = dict.fromkeys(self._table.columns.keys())
        rows = [nothing | entry | self._same for entry in entries]
        if connection.dialect.name in _IN_BULK:
            connection.execute(self._table.insert(), rows)
            return
        # Other drivers send such a list row by row.
        most = most_rows(connection.dialect.name, len(nothing))
        for start in range(0, len(rows), most):
            connection.execute(self._table.insert().values(rows[start : start + most]))

    def written(self, connection: Connection, entries: Sequence[Values]) -> set[str]:
        """The ids of those entries that the table has."""
        columns = [self._table.columns[name] for name in ("site_slug", "refund_key", "entry_id")]
        written: set[str] = set()
        most = min(_AT_A_TIME, most_parameters(connection.dialect.name) // len(columns))
        for start in range(0, len(entries), most):
            some = entries[start : start + most]
            matching = (column.in_([entry[column.name] for entry in some]) for column in columns)
            written.update(
                connection.execute(select(self._table.columns.entry_id).where(*matching)).scalars()
            )
        return written

    @cached_property
    def _insert_json(self) -> Insert:
        columns = self._table.columns
        varying = [column(each.name, each.type) for each in columns if each.name not in self._same]
        entries = func.json_to_recordset(cast(bindparam("entries"), JSON)).table_valued(*varying)
        rows = entries.render_derived(with_types=True).columns
        same = (cast(bindparam(name), columns[name].type) for name in self._same)
        names = [*rows.keys(), *self._same]
        return self._table.insert().from_select(names, select(*rows, *same))
