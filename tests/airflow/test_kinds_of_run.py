"""The example DAGs, and the templates on the pages, in each kind of run that Airflow knows."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow import __version__
from airflow.providers.common.compat.sdk import DAG, BaseOperator

from tests.airflow import commands
from tests.airflow.conftest import EXAMPLES, RUN_DATE, Airflow
from tests.documents import pages

IS_AIRFLOW_3 = not __version__.startswith("2.")
DATED = re.compile(r"data_interval|run_after|logical_date|\bds\b|\bts\b")
# By day: the end of the data interval that each kind of run has; `dags test` has a date, too.
ENDS = {
    "scheduled": RUN_DATE,
    "by hand": RUN_DATE,
    "backfill": RUN_DATE,
    # In Airflow 3 these have neither a logical date nor a data interval; in Airflow 2 each run has both.
    "by REST without a date": None,
    "by an asset": None,
}
WITHOUT_A_DATE = """
import sys
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:
    from airflow.models.dagbag import DagBag

folder, dag_id, run_after = sys.argv[1:]
from datetime import datetime
dag = DagBag(folder + "/" + dag_id + ".py").dags[dag_id]
run = dag.test(logical_date=None, run_after=datetime.fromisoformat(run_after))
assert run.logical_date is None and run.data_interval_end is None
print("STATE", run.state)
"""


@pytest.mark.skipif(not IS_AIRFLOW_3, reason="In Airflow 2 every run has a date; the tests run on 3 as well")
@pytest.mark.parametrize(
    "dag_id", [p.stem for p in sorted(EXAMPLES.glob("*.py")) if DATED.search(p.read_text())]
)
def test_an_example_runs_without_a_date(airflow: Airflow, dag_id: str) -> None:
    """As one does that is triggered by REST with a null date, or by an asset."""
    (airflow.home / "without_a_date.py").write_text(WITHOUT_A_DATE)
    referral = airflow.sandbox.talkable.sites["my-store"]["C"].referral
    if dag_id == "example_talkable_manual_approval" and referral:
        # What was approved is final.
        referral.status = "flagged"
    airflow.command("dags", "reserialize")
    if dag_id == "example_talkable_after_sync":
        airflow.run("example_talkable_sync")
    done = commands.start(
        "without_a_date",
        str(EXAMPLES),
        dag_id,
        RUN_DATE.isoformat(),
        environment=airflow.environment(),
        folder=airflow.home,
    )
    log = done.stdout + done.stderr
    # What the sync left open fails the reconciliation, as it should.
    expected = "failed" if dag_id == "example_talkable_after_sync" else "success"
    assert f"STATE {expected}" in log, log[-3000:]
    # As it is, the first sync is a preview.
    assert bool(airflow.sandbox.requests) == (dag_id != "example_talkable_first_sync")


def templates() -> list[str]:
    """Each template over dates on the pages."""
    found = re.findall(r"\"(\{\{[^\"]*\}\})\"", "\n".join(pages().values()))
    return sorted({template for template in found if DATED.search(template)})


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("template", templates())
def test_a_template_of_the_pages_renders(template: str, kind: str) -> None:
    end = ENDS[kind] if IS_AIRFLOW_3 else RUN_DATE
    run = SimpleNamespace(data_interval_end=end, **({"run_after": RUN_DATE} if IS_AIRFLOW_3 else {}))
    context: dict[str, object] = {"dag_run": run, "macros": SimpleNamespace(timedelta=timedelta)}
    if end:
        context |= {"data_interval_end": end, "ds": end.date().isoformat()}
    task = BaseOperator(task_id="task", dag=DAG("pages", schedule=None))
    rendered = task.render_template(template, context)  # type: ignore[arg-type]
    since = datetime.fromisoformat(rendered)
    assert timedelta(0) <= RUN_DATE - since.astimezone(UTC) <= timedelta(days=31)
