"""Benchmarks, in an Airflow home of their own."""

from __future__ import annotations

import os
import tempfile

# Before anything imports Airflow, which reads its configuration once.
if "TALKABLE_BENCH_HOME" not in os.environ:
    _home = tempfile.TemporaryDirectory(prefix="talkable-bench-")
    os.environ["TALKABLE_BENCH_HOME"] = os.environ["AIRFLOW_HOME"] = _home.name
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"
    os.environ.setdefault("XDG_RUNTIME_DIR", _home.name)
