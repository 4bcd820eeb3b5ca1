"""What every process of Airflow's imports of the pages: next to nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from airflow import __version__

from airflow_provider_talkable.plugin.talkable import TalkablePlugin

AIRFLOW = tuple(map(int, __version__.split(".")[:2]))

IMPORT = """
import sys
import airflow_provider_talkable.plugin.talkable
print(*(name for name in sys.modules if name.startswith("airflow_provider_talkable.")))
"""


def test_an_airflow_that_shows_no_pages_of_plugins_gets_none() -> None:
    shown = [view["destination"] for view in TalkablePlugin.external_views]
    assert shown == (["nav", "task_instance"] if AIRFLOW >= (3, 1) else [])
    assert len(TalkablePlugin.fastapi_apps) == (AIRFLOW >= (3, 1))


@pytest.mark.airflow_process
def test_the_pages_are_not_imported_with_the_plugin() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    imported = {name.rpartition(".")[2] for name in done.stdout.split() if ".plugin." in name}
    assert imported == {"talkable"}
