"""The wheel in an Airflow that has nothing else: what Airflow finds there, and that it warns of nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_talkable.get_provider_info import get_provider_info

ROOT = Path(__file__).parents[2]
UV, PIP_LICENSES = (Path(sys.executable).with_name(name) for name in ("uv", "pip-licenses"))
LICENCES_BEGIN = (
    "# Licences",
    "",
    "The provider has the Apache License 2.0. On Airflow 3.3 these are the licences of the packages that it",
    "brings, Airflow and its dependencies included, as each package states them.",
    "",
    "| licence | packages |",
    "|---|---|",
)
# Every module, each warning of which is printed as one line. A module `lineage` is for where OpenLineage is,
# retry policies are for Airflow 3.3, pages are for its API server, whose own imports warn.
IMPORT = """
import importlib, pkgutil, warnings
import airflow.providers.common.compat.sdk
import airflow_provider_talkable as package
pages = (".plugin.access", ".plugin.pages", ".plugin.rendering", ".plugin.tasks")
left_out = (".__main__", ".lineage", *pages, *([".policies.retry"] if airflow.__version__ < "3.3" else []))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    names = [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    for name in names:
        if not name.endswith(left_out):
            importlib.import_module(name)
    for name in package.__all__:
        getattr(package, name)
for warning in caught:
    print(f"{warning.filename}:{warning.lineno}: {warning.category.__name__}: {warning.message}")
"""


class EmptyAirflow:
    """A virtual environment that holds the wheel, the pinned Airflow, and what these two ask for."""

    def __init__(self, home: Path, requirements: str) -> None:
        [wheel] = (ROOT / "dist").glob("*.whl")
        self.requirements = requirements
        self.bin = home / "venv" / "bin"
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(home),
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__METRICS__TIMER_UNIT_CONSISTENCY": "True",  # Airflow 2.11 warns of its own default
            "COLUMNS": "1000",
            "PYTHONWARNINGS": "default",
        }
        certificates = {**os.environ, "UV_SYSTEM_CERTS": "1"}  # as pip does
        install = ["pip", "install", "--quiet", "--python", str(self.bin / "python")]
        pinned = ["--constraint", str(ROOT / "requirements" / requirements)]
        for command in (
            ["venv", "--quiet", "--python", sys.executable, str(home / "venv")],
            [*install, *pinned, "apache-airflow", str(wheel)],
        ):
            subprocess.run([UV, *command], check=True, env=certificates)

    def run(self, program: str, *arguments: str) -> tuple[str, str]:
        """Standard output and everything that was said."""
        ended = subprocess.run(
            [self.bin / program, *arguments],
            env=self.environment,
            cwd=self.bin,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout, ended.stdout + ended.stderr

    def listed(self, *command: str) -> Any:
        """What an Airflow command lists, once it is certain that it warned of nothing of ours."""
        out, said = self.run("airflow", *command, "--output", "json")
        warnings = [
            line for line in said.splitlines() if "warn" in line.lower() and "talkable" in line.lower()
        ]
        assert warnings == []
        assert "ERROR" not in said
        return json.loads(out[out.index("[") :])


@pytest.fixture(scope="module", params=["dev.txt", "airflow-2.11.txt"], ids=["Airflow 3.3", "Airflow 2.11"])
def airflow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EmptyAirflow:
    return EmptyAirflow(tmp_path_factory.mktemp("empty"), request.param)


def test_it_is_a_provider_of_the_version_that_was_built(airflow: EmptyAirflow) -> None:
    [wheel] = (ROOT / "dist").glob("*.whl")
    [provider] = [p for p in airflow.listed("providers", "list") if "talkable" in p["package_name"]]
    assert provider["version"].strip() == wheel.name.split("-")[1]


def test_the_connection_type_is_there(airflow: EmptyAirflow) -> None:
    [hook] = [h for h in airflow.listed("providers", "hooks") if h["connection_type"] == "talkable"]
    assert hook["class"] == "airflow_provider_talkable.hooks.talkable.TalkableHook"
    behaviours = airflow.listed("providers", "behaviours")
    assert any("talkable" in str(behaviour.values()) for behaviour in behaviours)


def test_the_links_are_there(airflow: EmptyAirflow) -> None:
    links = {link["extra_link_class_name"] for link in airflow.listed("providers", "links")}
    assert links >= set(get_provider_info().get("extra-links", []))


def test_every_module_is_imported_without_a_warning(airflow: EmptyAirflow) -> None:
    out, _ = airflow.run("python", "-c", IMPORT)
    assert out == ""


def licences(airflow: EmptyAirflow) -> str:
    """Each package that the wheel brings, by its licence, as a page."""
    command = [str(PIP_LICENSES), "--python", str(airflow.bin / "python"), "--from=mixed", "--format=json"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=airflow.bin).stdout
    packages: dict[str, list[str]] = {}
    for package in json.loads(listed):
        if package["Name"] != "airflow-provider-talkable":
            packages.setdefault(package["License"], []).append(package["Name"])
    rows = [
        f"| {'not stated' if licence == 'UNKNOWN' else licence} | {', '.join(sorted(names, key=str.lower))} |"
        for licence, names in sorted(packages.items())
    ]
    return "\n".join([*LICENCES_BEGIN, *rows, ""])


def test_the_licences_of_all_packages_are_on_their_page(airflow: EmptyAirflow) -> None:
    """``make licences`` writes the page."""
    if airflow.requirements != "dev.txt":
        pytest.skip("The page lists what comes with the newest Airflow, which is tested as well")
    page = ROOT / "docs" / "reference" / "licences.md"
    if "WRITE_LICENCES" in os.environ:
        page.write_text(licences(airflow))
    assert page.read_text() == licences(airflow)
