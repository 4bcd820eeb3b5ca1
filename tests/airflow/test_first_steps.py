"""What a newcomer types: the pages Install, Quickstart and Go live, walked through as they are written."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from airflow_provider_talkable.sandbox.demo import Demo
from tests.airflow.commands import server as fork_server
from tests.airflow.conftest import RUN_DATE, Airflow
from tests.conftest import Sandboxes
from tests.documents import ROOT, block, commands, table
from tests.network import free_port

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OFFLINE = "--no-deps --no-build-isolation --no-index --quiet"


@contextmanager
def terminal(folder: Path, commands: str) -> Iterator[Popen[str]]:
    """A shell as a reader has it, in which this environment is active; it ends with the block."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with Popen(
        ["bash", "-ec", commands],
        cwd=folder,
        env=environment,
        stdout=PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as shell:
        try:
            yield shell
        finally:
            shell.terminate()


@pytest.fixture
def forked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is typed before commands of ``airflow`` that are to be forked from what has imported Airflow."""
    fork_server()
    program = tmp_path_factory.mktemp("bin") / "airflow"
    program.write_text(f"""#!{sys.executable}
import os, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.airflow.commands import fork
done = fork("airflow", *sys.argv[1:], environment=os.environ, folder=Path.cwd(), timeout=600)
sys.stdout.write(done.stdout + done.stderr)
sys.exit(done.returncode)
""")
    program.chmod(0o755)
    return f"PATH={program.parent}:$PATH\n"


def typed(folder: Path, commands: str) -> str:
    """What is shown after commands, each of which has to succeed."""
    with terminal(folder, commands) as shell:
        shown, _ = shell.communicate(timeout=900)
    assert shell.returncode == 0, shown[-3000:]
    return shown


def assert_shown(lines: str, shown: str) -> None:
    """That each of these lines was."""
    for line in lines.splitlines():
        assert line in shown, shown[-3000:]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel that the page builds, by what is here: an index is not asked."""
    folder = tmp_path_factory.mktemp("install")
    build = block("docs/install.md", "console", "pip wheel").strip()
    assert build.endswith(" .")
    typed(folder, f"{build[:-1]}{shlex.quote(str(ROOT))} {OFFLINE}")
    return folder / "wheels"


def test_the_wheel_is_installed(wheels: Path, tmp_path: Path) -> None:
    install = block("docs/install.md", "console", "pip install").strip()
    typed(wheels.parent, f"{install} {OFFLINE} --target {tmp_path}")
    [metadata] = tmp_path.glob("airflow_provider_talkable-*.dist-info")
    assert "apache_airflow_provider" in (metadata / "entry_points.txt").read_text()
    # Run from the wheel, `sandbox --demo` finds its DAG there.
    shop = tmp_path / "shop"
    shop.mkdir()
    serve = f"PYTHONPATH={tmp_path} exec python -m airflow_provider_talkable.sandbox --demo --port 0"
    with terminal(shop, serve) as server:
        assert server.stdout
        while "run it again" not in (line := server.stdout.readline()):
            assert line
    assert (shop / "dags" / "example_talkable_first_sync.py").exists()


def test_the_installation(tmp_path: Path) -> None:
    """From a clone, built by what is here: an index is not asked."""
    [command] = commands(block("README.md", "console", "pip install"))
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(tmp_path)]
    subprocess.run([sys.executable, "-m", *shlex.split(command), *offline], cwd=ROOT, check=True, timeout=120)
    [metadata] = tmp_path.glob("airflow_provider_talkable-*.dist-info")
    assert "apache_airflow_provider" in (metadata / "entry_points.txt").read_text()


@pytest.mark.airflow_process
def test_airflow_sees_the_provider(tmp_path: Path) -> None:
    shown = typed(
        tmp_path,
        f"export AIRFLOW_HOME={tmp_path} COLUMNS=200\n"
        + block("docs/install.md", "console", "providers get"),
    )
    assert "airflow-provider-talkable" in shown


def test_what_is_installed_elsewhere_has_the_names_of_here() -> None:
    """Indexes, images and clouds are not asked."""
    pinned = (ROOT / "requirements" / "dev.txt").read_text()
    [airflow] = re.findall(r"^apache-airflow==([\d.]+) ", pinned, re.MULTILINE)
    constrained = block("docs/install.md", "sh", "--constraint")
    assert set(re.findall(r"\d+\.\d+\.\d+", constrained)) == {airflow}
    assert f"FROM apache/airflow:{airflow}\n" in block("docs/install.md", "dockerfile", "FROM apache")
    blocks = (
        constrained,
        block("docs/install.md", "dockerfile", "FROM apache"),
        block("docs/install.md", "dockerfile", "include"),
        block("docs/install.md", "sh", "gcloud"),
    )
    assert {extra for text in blocks for extra in re.findall(r"\[(\w+)\]", text)} <= set(EXTRAS)
    _, *named = block("docs/install.md", "text", "plugins").split()
    bounded = {re.split(r"[<>=]", one)[0]: one for one in EXTRAS["redshift"]}
    assert set(named) == set(bounded) - {"sqlalchemy"}
    assert [row[0].strip("`") for row in table("docs/install.md", "`bigquery`")] == sorted(EXTRAS)


@pytest.mark.airflow_process
@pytest.mark.takes_long
def test_the_quickstart(tmp_path: Path) -> None:
    """As it is written, from an empty folder, but for the port."""
    serve = block("docs/quickstart.md", "console", "sandbox --demo")
    with terminal(tmp_path, f"exec {serve.strip()} --port {free_port()}") as server:
        assert server.stdout
        while "run it again" not in (line := server.stdout.readline()):
            assert line
        settings = block("docs/quickstart.md", "console", "source")
        run = settings + block("docs/quickstart.md", "console", "db migrate")
        shown = typed(tmp_path, run)
        assert_shown(block("docs/quickstart.md", "text", "Preview"), shown)
        assert not re.search(r"\[error|ERROR", shown)
        dag = tmp_path / "dags" / "example_talkable_first_sync.py"
        dag.write_text(re.sub(r"\n.*preview=True.*", "", dag.read_text()))
        assert_shown(block("docs/quickstart.md", "text", "139 refunded"), typed(tmp_path, run))
        assert "Refunds: nothing new; 150 settled before" in typed(tmp_path, run)
        asked = typed(tmp_path, settings + block("docs/quickstart.md", "console", "ledger summary"))
    assert re.search(r"refunded +\| 139 ", asked), asked
    assert "SHOP-10010" in asked
    with closing(sqlite3.connect(tmp_path / "warehouse.sqlite")) as warehouse:
        rows = warehouse.execute(block("docs/quickstart.md", "sql", "talkable_refund_ledger")).fetchall()
    assert [row[:4] for row in rows if row[0] == "R-10"] == [("R-10", "refunded", 1, "conflict")]
    assert len(rows) == 150


@pytest.mark.airflow_process
@pytest.mark.takes_long
def test_going_live(tmp_path: Path, sandboxes: Sandboxes, migrated: Path, forked: str) -> None:
    """Connect, preview, the first hundred, all: from the folder that the quickstart has made."""
    sandbox, demo = sandboxes(), Demo(tmp_path)
    demo.make(sandbox)
    (tmp_path / "airflow").mkdir()
    shutil.copy(migrated, tmp_path / "airflow")
    begin = forked + block("docs/quickstart.md", "console", "source")
    run = begin + block("docs/quickstart.md", "console", "db migrate").partition("&& ")[2]
    log = typed(tmp_path, run)
    assert "Preview: nothing was sent" in log
    assert "the whole order" in log
    assert not sandbox.requests
    assert "Connection success" in typed(
        tmp_path, begin + block("docs/go-live.md", "console", "TEST_CONNECTION")
    )
    whole = re.sub(r"\n.*preview=True.*", "", demo.dag.read_text())
    hundred = block("docs/go-live.md", "sql", "LIMIT 100")
    demo.dag.write_text(re.sub(r'sql=""".*?"""', f'sql="""\n{hundred}"""', whole, flags=re.DOTALL))
    assert "; 100 rows in all" in typed(tmp_path, run)
    asked = typed(tmp_path, begin + block("docs/go-live.md", "console", "ledger summary"))
    assert "Refunds: 100, of which" in asked
    demo.dag.write_text(whole)
    assert "; 100 settled before, 0 duplicates; 150 rows in all" in typed(tmp_path, run)


def test_several_sites_with_keys_of_their_own(
    airflow: Airflow, sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = {}
    with closing(airflow.warehouse) as warehouse, warehouse:
        warehouse.execute("DELETE FROM refunds")
        for conn_id, site in (("TALKABLE_US", "my-store"), ("TALKABLE_CA", "my-store-ca")):
            sandbox = sandboxes(api_key=f"the-key-of-{site}", site_slugs=(site,))
            stores[site] = sandbox.talkable
            sandbox.talkable.create_purchase(site, {"order_number": site.upper(), "subtotal": 50})
            row = (site, site.upper(), RUN_DATE.isoformat(), None, site)
            warehouse.execute("INSERT INTO refunds VALUES (?, ?, ?, ?, ?)", row)
            connection = {"conn_type": "talkable", "host": sandbox.url, "password": sandbox.api_key}
            monkeypatch.setenv(
                f"AIRFLOW_CONN_{conn_id}", json.dumps(connection | {"extra": {"site_slug": site}})
            )
    folder = airflow.home / "dags"
    folder.mkdir()
    (folder / "sites.py").write_text(block("docs/go-live.md", "python", "sync_sites"))
    log = airflow.run("sync_sites", folder=folder)
    assert airflow.states() == {"sync_refunds": {"success"}}, log[-3000:]
    for site, talkable in stores.items():
        assert talkable.snapshot()[site][site.upper()]["refunded_at"], log[-3000:]
