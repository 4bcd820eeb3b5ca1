"""What Airflow discovers."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest

from airflow_provider_talkable.get_provider_info import get_provider_info
from airflow_provider_talkable.hooks.talkable import TalkableHook

SCHEMAS = Path(airflow.__path__[0])


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / name).read_text())


def test_the_entry_point_leads_to_it() -> None:
    [entry_point] = [
        found for found in entry_points(group="apache_airflow_provider") if found.dist and
        found.dist.name == "airflow-provider-talkable"
    ]  # fmt: skip
    assert entry_point.load() is get_provider_info


def test_it_is_what_airflows_schemas_ask_for() -> None:
    info = get_provider_info()
    jsonschema.validate(info, schema("provider_info.schema.json"))
    strict = schema("provider.yaml.schema.json")["properties"]["connection-types"]
    if "conn-fields" in strict["items"]["properties"]:
        jsonschema.validate(info["connection-types"], strict)


def test_the_hook_says_the_same_to_airflow_before_3_2() -> None:
    [connection_type] = get_provider_info()["connection-types"]
    assert connection_type["connection-type"] == TalkableHook.conn_type
    assert connection_type["hook-name"] == TalkableHook.hook_name
    assert connection_type["hook-class-name"] == f"{TalkableHook.__module__}.{TalkableHook.__name__}"
    assert TalkableHook.get_ui_field_behaviour() == {
        "hidden_fields": ["login", "schema", "extra"],
        "relabeling": {"password": "API key"},
        "placeholders": connection_type["ui-field-behaviour"]["placeholders"],
    }
    pytest.importorskip("flask_appbuilder", reason="Airflow 3 draws its form without Flask AppBuilder")
    assert list(TalkableHook.get_connection_form_widgets()) == list(connection_type["conn-fields"])


def test_every_module_it_names_is_there() -> None:
    info = get_provider_info()
    for kind in ("hooks", "operators", "triggers"):
        for group in info[kind]:
            for module in group["python-modules"]:
                import_module(module)
    for transfer in info["transfers"]:
        import_module(transfer["python-module"])
    [asset] = info["asset-uris"]
    assert info["dataset-uris"] == [asset]
    handlers = (asset[name] for name in ("handler", "factory", "to_openlineage_converter"))
    for function in (*info["cli"], *info["extra-links"], *handlers):
        module, _, name = function.rpartition(".")
        assert callable(getattr(import_module(module), name))


@cache
def imported_by(statement: str) -> frozenset[str]:
    """What a new Python has imported after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted(m for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Airflow may log something before, as it does on Python 3.14.
    return frozenset(done.stdout.splitlines()[-1].split())


def test_provider_info_imports_nothing() -> None:
    added = imported_by("import airflow_provider_talkable.get_provider_info") - imported_by("import typing")
    packages = {module.partition(".")[0] for module in added}
    assert packages <= {"airflow_provider_talkable", "importlib", "__future__"}


@pytest.mark.airflow_process
def test_what_every_command_of_airflows_imports_is_next_to_nothing() -> None:
    base = imported_by("import argparse, dataclasses, json, urllib.parse, airflow.cli.cli_config")
    added = base ^ imported_by(
        "import airflow.cli.cli_config\n"
        "from airflow_provider_talkable.cli.definition import get_talkable_cli_commands\n"
        "assert get_talkable_cli_commands()"
    )
    packages = {module.partition(".")[0] for module in added}
    assert packages - sys.stdlib_module_names == {"airflow_provider_talkable"}
    ours = (module for module in added if module.startswith("airflow_provider_talkable."))
    assert {module.split(".")[1] for module in ours} == {"cli", "protocol", "sandbox"}
    assert "airflow_provider_talkable.cli.commands" not in added
    assert "airflow_provider_talkable.sandbox.server" not in added


@pytest.mark.airflow_process
@pytest.mark.parametrize(
    "module",
    [
        "operators.reconcile",
        "operators.referral",
        "operators.refund",
        "sensors.referral",
        "transfers.sql_to_talkable",
    ],
)
def test_importing_an_operator_costs_next_to_nothing(module: str) -> None:
    names = "Asset, BaseHook, BaseOperator, BaseSensorOperator, conf"
    base = imported_by(f"from airflow.providers.common.compat.sdk import {names}")
    added = imported_by(f"import airflow_provider_talkable.{module}") - base
    for heavy in (
        "requests",
        "urllib3",
        "aiohttp",
        "tenacity",
        "sqlalchemy",
        "airflow_provider_talkable.client",
        "airflow_provider_talkable.sync",
    ):
        assert heavy not in added
    assert len({m for m in added if not m.startswith("airflow_provider_talkable")}) < 25, sorted(added)
