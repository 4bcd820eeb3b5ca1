"""What importing a public module costs where Airflow's base classes are there already."""

from __future__ import annotations

import importlib
import multiprocessing
import time

BASE = ("airflow.providers.common.compat.sdk",)
OURS = (
    "airflow_provider_talkable",
    "airflow_provider_talkable.hooks.talkable",
    "airflow_provider_talkable.operators.refund",
    "airflow_provider_talkable.operators.referral",
    "airflow_provider_talkable.operators.reconcile",
    "airflow_provider_talkable.sensors.referral",
    "airflow_provider_talkable.transfers.sql_to_talkable",
)
THEIRS = ("airflow.providers.http.operators.http",)


def milliseconds(runs: int) -> dict[str, list[float]]:
    """How long each import takes, in a fresh copy of this process each time."""
    from airflow.providers.common.compat.sdk import DAG, BaseHook, BaseOperator, BaseSensorOperator

    assert all((DAG, BaseHook, BaseOperator, BaseSensorOperator))  # they are made when they are asked for
    fresh = multiprocessing.get_context("fork")
    took: dict[str, list[float]] = {module: [] for module in OURS + THEIRS}
    for _ in range(runs):
        for module, times in took.items():
            receiver, sender = fresh.Pipe(duplex=False)
            child = fresh.Process(target=_import, args=(module, sender))
            child.start()
            times.append(receiver.recv())
            child.join()
    return took


def _import(module: str, answer: multiprocessing.connection.Connection) -> None:
    started = time.perf_counter()
    importlib.import_module(module)
    answer.send(1000 * (time.perf_counter() - started))
