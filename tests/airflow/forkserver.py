"""A process that has imported Airflow and forks another one for each command, which then begins at once.

It is run as a script, with a folder, in which it makes its socket, and the number of the process that it
ends with. It goes on by itself as soon as commands may come. Whoever connects is told, each in a line, the
process group of the command and, in the end, its exit status; in between comes the command as JSON: a
module, which is run as ``python -m`` runs it, its arguments, environment and working directory, and the
files that its output goes to.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import sys
import warnings
from contextlib import suppress
from functools import lru_cache
from typing import Any, NoReturn

# What commands import, in one version of Airflow or another. What reads the configuration when it is
# imported, as logging, OpenLineage's plugin and Airflow's command line do, is left to the commands.
MODULES = (
    "aiohttp",
    "airflow.api_fastapi.execution_api.app",
    "airflow.dag_processing.dagbag",
    "airflow.models.dagbag",
    "airflow.providers.common.compat.sdk",
    "airflow.providers.common.sql.operators.sql",
    "airflow.providers.openlineage.extractors.manager",
    "airflow.providers.openlineage.plugins.adapter",
    "airflow.providers.openlineage.plugins.listener",
    "airflow.providers.openlineage.sqlparser",
    "airflow.providers.postgres.hooks.postgres",
    "airflow.providers.sqlite.hooks.sqlite",
    "airflow.providers.standard.operators.python",
    "airflow.providers_manager",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.serialization.serialized_objects",
    "alembic.autogenerate",
    "pydantic_settings",
    "requests",
    "tenacity",
)


def prepare() -> None:
    """Import Airflow without its settings, and have made what each process would make for itself."""
    os.environ["_AIRFLOW__AS_LIBRARY"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in MODULES:
            # Not every version has all of them.
            with suppress(ImportError):
                importlib.import_module(module)
        from airflow import models
        from sqlalchemy.orm import configure_mappers

        models.import_all_models()  # type: ignore[no-untyped-call,unused-ignore]
        configure_mappers()
        with suppress(ImportError):
            _make_routes()
    del os.environ["_AIRFLOW__AS_LIBRARY"]
    # Otherwise each process would go through all of it again when it ends, for seconds.
    gc.freeze()


def _make_routes() -> None:
    """Have the API that tasks call in this process make its routes, which it does for its first request."""
    from airflow.sdk.execution_time import supervisor

    if not hasattr(supervisor.in_process_api_server, "cache_info"):
        # Before Airflow 3.3 each task has an API of its own, which takes most of the task's time.
        supervisor.in_process_api_server = lru_cache(supervisor.in_process_api_server)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": "/nothing", "headers": [], "query_string": b""}
    asyncio.run(supervisor.in_process_api_server().app(scope, receive, send))


def serve(listening: socket.socket, owner: int) -> None:
    """Fork a process for each command, until its owner has ended."""
    # What has ended is collected by nobody.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening.settimeout(1)
    while _is_there(owner):
        with suppress(TimeoutError):
            connection, _ = listening.accept()
            if not os.fork():
                listening.close()
                answer(connection)
            connection.close()


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def answer(connection: socket.socket) -> NoReturn:
    """Fork a process for the command that comes, and tell what became of it."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.setblocking(True)
    with connection, connection.makefile("rw") as stream:
        print(os.getpid(), file=stream, flush=True)
        command = json.loads(stream.readline())
        process = os.fork()
        if process:
            _, status = os.waitpid(process, 0)
            print(os.waitstatus_to_exitcode(status), file=stream, flush=True)
            os._exit(0)
    run(**command)


def run(
    module: str, arguments: list[str], environment: dict[str, str], folder: str, out: str, err: str
) -> NoReturn:
    """Run a module in this process, and end the process."""
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(in_home(environment))
    sys.argv = [module, *arguments]
    from airflow import settings

    settings.initialize()  # type: ignore[no-untyped-call,unused-ignore]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


def in_home(environment: dict[str, str]) -> dict[str, str]:
    """The environment with each path that Airflow, which this process has imported, derives from its home."""
    home = environment["AIRFLOW_HOME"]
    return {
        "AIRFLOW__CORE__DAGS_FOLDER": f"{home}/dags",
        "AIRFLOW__CORE__PLUGINS_FOLDER": f"{home}/plugins",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{home}/logs",
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": f"{home}/logs/dag_processor",
        "AIRFLOW__SCHEDULER__CHILD_PROCESS_LOG_DIRECTORY": f"{home}/logs/scheduler",
        **environment,
    }


if __name__ == "__main__":
    folder, owner = sys.argv[1:]
    prepare()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/socket")
        listening.listen()
        if not os.fork():
            serve(listening, int(owner))
            shutil.rmtree(folder, ignore_errors=True)
