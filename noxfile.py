"""The tests on each Airflow that is supported, and on the oldest and the newest Pythons that it allows."""

import os
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = "CI" in os.environ
# uv trusts the certificates that pip trusts.
os.environ["UV_SYSTEM_CERTS"] = "1"
# Otherwise each of the processes that tests start would compile Airflow anew where none may write it down.
os.environ["UV_COMPILE_BYTECODE"] = "1"

# Of pyenv's interpreters only the chosen one is found; here all of them count.
for _shims in [Path(folder) for folder in os.environ["PATH"].split(os.pathsep) if folder.endswith("/shims")]:
    os.environ["PATH"] += "".join(f"{os.pathsep}{folder}" for folder in _shims.parent.glob("versions/*/bin"))

# The newest release of Airflow is the one that is developed with; 3.4 is a pre-release.
REQUIREMENTS = {
    "2.11": "airflow-2.11.txt",
    "3.0": "airflow-3.0.txt",
    "3.1": "airflow-3.1.txt",
    "3.2": "airflow-3.2.txt",
    "3.3": "dev.txt",
    "3.4": "airflow-3.4.txt",
}
PYTHONS = {
    "2.11": ("3.11", "3.12"),
    "3.0": ("3.11", "3.12"),
    "3.1": ("3.11", "3.13"),
    "3.2": ("3.11", "3.13"),
    "3.3": ("3.11", "3.13"),
}
# What differs between versions of Airflow, each example DAG among it, but for what takes minutes.
SMOKE = [
    *(f"tests/airflow/test_{what}_operator.py" for what in ("refund", "referral", "reconcile", "sync")),
    "tests/airflow/test_assets.py",
    "tests/airflow/test_example_dags.py",
    "tests/airflow/test_hook.py",
    "tests/airflow/test_links.py",
    "tests/airflow/test_provider_info.py",
    "tests/airflow/test_referral_sensor.py",
    "tests/airflow/test_retry_policy.py",
    # A triggerer of each version: what it allows on its event loop differs.
    "tests/airflow/test_scheduler.py::test_a_sensor_outlives_its_triggerer",
    "tests/airflow/test_trigger.py",
    "tests/sync/test_ledger.py",
]
# What is not supported yet: see docs/reference/previews.md.
PREVIEWS = {"3.2": ("3.14",), "3.3": ("3.14",), "3.4": ("3.11", "3.13", "3.14")}


def on_each(name: str) -> Any:
    """Parametrize the session of that name over the matrix; its tags are ``tests-3.3`` and the like."""
    matrix = [
        nox.param(python, airflow, id=f"airflow-{airflow}-python-{python}", tags=[f"{name}-{airflow}"])
        for airflow, pythons in (*PYTHONS.items(), *PREVIEWS.items())
        for python in pythons
    ]
    return nox.parametrize(("python", "airflow"), matrix)


def run(session: nox.Session, airflow: str, *arguments: str) -> None:
    """Run pytest. What is deprecated is an error on the Airflow that is developed with, and nowhere else."""
    # As many as `make test` has: tests wait for something else half of the time.
    processes = f"--processes={(os.cpu_count() or 1) * 2 + 1}"
    old = () if airflow == "3.3" else ("-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning")
    session.run("python", "-m", "pytest", processes, *old, *arguments, *session.posargs)


def install(session: nox.Session, airflow: str) -> None:
    """Install exactly what is pinned, and the package without dependencies."""
    requirements = Path("requirements") / REQUIREMENTS[airflow]
    session.install("--require-hashes", "--requirement", str(requirements))
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")


# With pip, which one of the tests installs the package with.
@nox.session(venv_params=["--seed"])
@on_each("tests")
def tests(session: nox.Session, airflow: str) -> None:
    """Run all tests, or those that are named after ``--``."""
    install(session, airflow)
    run(session, airflow)


@nox.session
@on_each("smoke")
def smoke(session: nox.Session, airflow: str) -> None:
    """Run what differs between versions of Airflow, in a few minutes."""
    install(session, airflow)
    run(session, airflow, *SMOKE)
