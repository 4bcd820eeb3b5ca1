"""What Airflow learns about this provider without importing anything else of it."""

from __future__ import annotations

from typing import Any

_PACKAGE = "airflow_provider_talkable"
_LINKS = ("TalkableSiteLink", "TalkableLedgerLink")
_ASSET = {
    "schemes": ["talkable"],
    "handler": f"{_PACKAGE}.assets.talkable.sanitize_uri",
    "factory": f"{_PACKAGE}.assets.talkable.create_asset",
    "to_openlineage_converter": f"{_PACKAGE}.assets.talkable.convert_asset_to_openlineage",
}


def get_provider_info() -> dict[str, Any]:
    """The connection type with its form, the modules that hold hooks and operators, and the commands."""
    return {
        "package-name": "airflow-provider-talkable",
        "name": "Talkable",
        "description": "Refunds for the referral-marketing platform Talkable.",
        "integrations": [
            {
                "integration-name": "Talkable",
                "external-doc-url": "https://docs.talkable.com/",
                "tags": ["service"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Talkable",
                "python-modules": [f"{_PACKAGE}.hooks.ledger", f"{_PACKAGE}.hooks.talkable"],
            }
        ],
        "operators": [
            {
                "integration-name": "Talkable",
                "python-modules": [
                    f"{_PACKAGE}.operators.reconcile",
                    f"{_PACKAGE}.operators.referral",
                    f"{_PACKAGE}.operators.refund",
                ],
            }
        ],
        "sensors": [{"integration-name": "Talkable", "python-modules": [f"{_PACKAGE}.sensors.referral"]}],
        "triggers": [
            {
                "integration-name": "Talkable",
                "python-modules": [f"{_PACKAGE}.triggers.referral", f"{_PACKAGE}.triggers.throttle"],
            }
        ],
        "transfers": [
            {
                "source-integration-name": "Common SQL",
                "target-integration-name": "Talkable",
                "python-module": f"{_PACKAGE}.transfers.sql_to_talkable",
            }
        ],
        # Airflow 3.2 is the first to look for it.
        "cli": [f"{_PACKAGE}.cli.definition.get_talkable_cli_commands"],
        "extra-links": [f"{_PACKAGE}.links.talkable.{name}" for name in _LINKS],
        # The same under its name of Airflow 2.
        "asset-uris": [_ASSET],
        "dataset-uris": [_ASSET],
        "config": {
            "talkable": {
                "description": "The pages that show what happened to refunds; Airflow 3.1 and later.",
                "options": {
                    "ledgers": {
                        "description": (
                            "The ledgers that the pages show, separated by commas: for each the connection "
                            "of its database, with :table or :schema.table where the table has another name."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "shop_warehouse, other_warehouse:finance.talkable_refund_ledger",
                        "default": "",
                    },
                    "approval_delay_days": {
                        "description": (
                            "How many days Talkable waits before it approves a referral, as your campaigns "
                            "are set; the pages show it beside the delay of refunds."
                        ),
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": "14",
                        "default": "",
                    },
                    "settle_dag_id": {
                        "description": (
                            "The DAG that asks a person about refunds in doubt, made from the example "
                            "example_talkable_settle; the pages link it beside each such refund."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "example_talkable_settle",
                        "default": "",
                    },
                },
            }
        },
        "connection-types": [
            {
                "connection-type": "talkable",
                "hook-class-name": f"{_PACKAGE}.hooks.talkable.TalkableHook",
                "hook-name": "Talkable",
                "ui-field-behaviour": {
                    # The host takes a URL. The port stays: where none is stored, the page's Test button sends
                    # 0, which Airflow's API refuses as another endpoint.
                    "hidden-fields": ["login", "schema", "extra"],
                    "relabeling": {"password": "API key"},
                    "placeholders": {
                        "host": "https://www.talkable.com",
                        "port": "443; the Test button needs it",
                        "password": "from the Talkable dashboard; site slug: under Extra Fields",
                    },
                },
                "conn-fields": {
                    "site_slug": {
                        "label": "Site slug",
                        "description": "Your Talkable site id, e.g. my-store; refunds may name another.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "auth_scheme": {
                        "label": "Auth scheme",
                        "description": "How the API key is sent; auto tries basic, then bearer.",
                        "schema": {
                            "type": ["string", "null"],
                            "enum": ["auto", "basic", "bearer"],
                            "default": "auto",
                        },
                    },
                    "timeout": {
                        "label": "Timeout",
                        "description": "Seconds to wait to connect, and again for an answer; default 30.",
                        "schema": {"type": ["number", "null"], "default": 30},
                    },
                    "ca_bundle": {
                        "label": "CA bundle",
                        "description": "Path on the worker of a PEM file or of hashed certificates.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "proxy": {
                        "label": "Proxy",
                        "description": "URL of an http or https proxy, e.g. http://proxy.example.com:3128.",
                        "schema": {"type": ["string", "null"]},
                    },
                },
            }
        ],
    }
