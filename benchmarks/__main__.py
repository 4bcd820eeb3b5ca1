"""Measures everything in one run and writes ``RESULTS.md`` beside this file: ``python -m benchmarks``."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import connections, imports, pacing, pages, rows, servers, sites
from benchmarks.scheduler import DAG_IDS, TASKS, scheduler
from benchmarks.ways import IN_FLIGHT, Named, all_ways

RUNS = 5
AT_ONCE, AT_ONCE_ONE_BY_ONE = 10_000, 1_500  # refunds in a run
LATENCIES = (0, 20, 100, 300)  # milliseconds
ROWS = (1_000, 10_000, 100_000, 1_000_000)
RESULTS = Path(__file__).parent / "RESULTS.md"

_NEXT = [0]
FIGURES: dict[str, float] = {}
"""Those that have an aim."""

WHY = """Why some fall short, by what a sampling profiler shows of where the time goes:

- Of a whole sync's time some 70 % is the thread that sends and 30 % the thread of the ledger. Both take
  turns at one interpreter lock, so the two add up, as the processor time above does. In the first, aiohttp's
  request takes 40 of the 70, reading sockets 7, reading the answer 4, building the request 3, the pacer 1.
  In the second, the JSON text of the entries takes 6 of the 30, look-ups 4, the query and the local copy 6,
  waiting for the other thread 3, PostgreSQL's driver 2. What is left is spread thinly; to be much faster it
  would take a second process.
- `refund_many` adds to aiohttp's request what makes a refund safe: validation, reading the answer into an
  outcome, a pacer, a deadline, and another thread that the caller's code runs beside.
- Of four workers that know nothing of each other, the one that happens to meet the 429 gives way to the
  others, so their shares settle over minutes, not in the half one that is measured. At 5/s each has 1.25/s:
  finding the limit once costs each of them a 429, which is several seconds' worth of its requests."""


def numbers(count: int) -> int:
    """The first of so many order numbers that nothing has sent before."""
    _NEXT[0] += count
    return _NEXT[0] - count


def rate(named: Named, url: str, count: int) -> tuple[float, float]:
    """Refunds per second, and the microseconds of processor time that this process took for each."""
    first = numbers(count)
    started, cpu = time.perf_counter(), time.process_time()
    named.way(url, first, count)
    return count / (time.perf_counter() - started), 1e6 * (time.process_time() - cpu) / count


def throughput(url: str, database: str, folder: str) -> list[str]:
    """All ways at a server that answers at once."""
    ways = all_ways(database, folder)
    rates: list[list[float]] = [[] for _ in ways]
    processor: list[list[float]] = [[] for _ in ways]
    for named in ways:  # what is done once, imports for instance, is not measured
        rate(named, url, 200)
    for _ in range(RUNS):
        for named, of_way, cpu in zip(ways, rates, processor, strict=True):
            count = AT_ONCE_ONE_BY_ONE if named.is_sequential else AT_ONCE
            for list_, value in zip((of_way, cpu), rate(named, url, count), strict=True):
                list_.append(value)
    for number, name in ((2, "refund_many"), (3, "sync")):
        FIGURES[name] = float(compared(rates[number], rates[1])[0])
    return table(
        (
            "way to send refunds",
            "refunds/s",
            "beside the bare aiohttp loop",
            "lowest to highest of it",
            "µs of processor time a refund",
        ),
        (
            (named.name, f"{median(of_way):,.0f}", *compared(of_way, rates[1]), f"{median(cpu):.0f}")
            for named, of_way, cpu in zip(ways, rates, processor, strict=True)
        ),
    )


def with_latency(database: str, folder: str) -> list[str]:
    """The ways at a sandbox that takes its time."""
    # Without the floor, and without drt-core, which cannot name the order.
    ways = all_ways(database, folder)[1:-1]
    cells: dict[int, list[str]] = {}
    for latency in LATENCIES:
        rates: list[list[float]] = [[] for _ in ways]
        seconds = latency / 1000
        with servers.sandbox("--latency", str(seconds)) as url:
            for _ in range(RUNS):
                for named, of_way in zip(ways, rates, strict=True):
                    of_way.append(rate_of_unknown(named, url, seconds))
        cells[latency] = [f"{median(of_way):,.0f}" for of_way in rates]
    return table(
        ("refunds/s", *(f"{latency} ms" for latency in LATENCIES)),
        (
            (named.name, *(cells[latency][number] for latency in LATENCIES))
            for number, named in enumerate(ways)
        ),
    )


def rate_of_unknown(named: Named, url: str, seconds: float) -> float:
    """Refunds per second, of orders that are registered first."""
    count = min(300, max(5, round(0.7 / seconds))) if seconds else 300
    if not named.is_sequential:
        count = min(1_000, count * IN_FLIGHT)
    servers.register(url, range(_NEXT[0], _NEXT[0] + count))
    return rate(named, url, count)[0]


def of_parts() -> list[str]:
    """Partial refunds beside full ones."""
    lines = []
    for distance in connections.DISTANCES:
        full, partial = connections.rates(distance, RUNS)
        cells = (f"{distance} ms", f"{median(full):,.0f}", f"{median(partial):,.0f}")
        lines.append((*cells, *compared(partial, full)))
    return table(
        ("a round trip", "full refunds/s", "partial refunds/s", "beside full ones", "lowest to highest"),
        lines,
    )


def mapped(url: str, database: str) -> list[str]:
    """Operators under the real scheduler."""
    rates: dict[str, list[float]] = {dag_id: [] for dag_id in DAG_IDS}
    with (
        tempfile.TemporaryDirectory() as folder,
        scheduler(url, database, Path(folder)) as running,
    ):
        for _ in range(RUNS):
            for dag_id, of_dag in rates.items():
                of_dag.append(running.run(dag_id))
    names = (
        f"`HttpOperator`, mapped over {TASKS} orders",
        f"`TalkableRefundOperator`, mapped over {TASKS} orders",
        f"`TalkableRefundOperator`, one task with a list of {TASKS}",
    )
    return table(
        (
            "under the real scheduler, LocalExecutor",
            "refunds/s",
            "beside `HttpOperator`",
            "lowest to highest",
        ),
        (
            (name, f"{median(of_dag):.1f}", *compared(of_dag, rates[DAG_IDS[0]]))
            for name, of_dag in zip(names, rates.values(), strict=True)
        ),
    )


def by_site() -> list[str]:
    """Healthy sites beside others, and alone."""
    measured = sites.compare()
    FIGURES["sites"] = max(beside / alone for _, _, alone, beside in measured)
    return table(
        ("site", "refunds", "seconds alone", "seconds beside the others", "ratio"),
        (
            (site, f"{count:,}", f"{alone:.1f}", f"{beside:.1f}", f"{beside / alone:.2f}")
            for site, count, alone, beside in measured
        ),
    )


def paced() -> list[str]:
    """Hidden limits."""
    rounds = [pacing.a_round() for _ in range(RUNS)]
    for key in rounds[0]:
        FIGURES[f"used {key}"] = median([each[key].used for each in rounds])
        FIGURES[f"refused {key}"] = median([each[key].refused for each in rounds])
        FIGURES[f"fairness {key}"] = median([each[key].fairness for each in rounds])
    return table(
        ("limit", "workers", "of the limit used", "requests answered 429", "Jain's fairness"),
        (
            (
                f"{limit}/s",
                str(workers),
                f"{100 * median([each[limit, workers].used for each in rounds]):.1f} %",
                f"{100 * median([each[limit, workers].refused for each in rounds]):.2f} %",
                f"{median([each[limit, workers].fairness for each in rounds]):.3f}" if workers > 1 else "",
            )
            for limit, workers in rounds[0]
        ),
    )


def by_rows(url: str, database: str) -> list[str]:
    """More and more rows."""
    took = []
    for count in ROWS:
        runs = [
            rows.measure(url, database, numbers(count), count) for _ in range(RUNS if count < 10**5 else 1)
        ]
        took.append(sorted(runs, key=lambda run: run.seconds)[len(runs) // 2])
    lines = table(
        ("rows", "seconds", "µs a row", "peak memory"),
        (
            (
                f"{each.rows:,}",
                f"{each.seconds:.1f}",
                f"{1e6 * each.seconds / each.rows:.0f}",
                f"{each.megabytes:.0f} MB",
            )
            for each in took
        ),
    )
    more = took[-1].megabytes - took[1].megabytes
    growth = (
        f"The seconds grow as the rows to the power of {rows.slope(took):.2f}, the memory by "
        f"{1e6 * more / (took[-1].rows - took[1].rows):.1f} bytes a row above {took[1].rows:,} rows."
    )
    return [*lines, "", growth]


def paged() -> list[str]:
    """The pages in Airflow."""
    with servers.postgres() as database:
        took, megabytes = pages.measure(database)
    FIGURES["pages"] = max(median(page.seconds) for page in took)
    FIGURES["page memory"] = megabytes
    lines = table(
        ("page", "seconds", "the slowest time", "kB"),
        (
            (page.page, f"{median(page.seconds):.2f}", f"{max(page.seconds):.2f}", f"{page.kilobytes:.0f}")
            for page in took
        ),
    )
    return [*lines, "", f"The API server grew by {megabytes:.0f} MB."]


def imported() -> list[str]:
    """What imports cost."""
    took = imports.milliseconds(RUNS)
    FIGURES["imports"] = max(median(took[module]) for module in imports.OURS)
    return table(
        ("module", "ms over the base classes"),
        ((f"`{module}`", f"{median(times):.1f}") for module, times in took.items()),
    )


def aims() -> list[str]:
    """What it should reach, and what it reaches."""
    measured = [
        ("`refund_many` beside the bare aiohttp loop", 0.90, FIGURES["refund_many"]),
        ("whole sync on PostgreSQL beside it", 0.75, FIGURES["sync"]),
        ("slowest import, ms", -25.0, FIGURES["imports"]),
        ("slowest page, s", -1.0, FIGURES["pages"]),
        ("growth of the API server by the pages, MB", -50.0, FIGURES["page memory"]),
        ("slowest healthy site beside unhealthy ones, to itself alone", -1.1, FIGURES["sites"]),
    ]
    for key in ((limit, workers) for limit in pacing.LIMITS for workers in pacing.WORKERS):
        of = f"{key[0]}/s, {key[1]} worker" + ("s" if key[1] > 1 else "")
        measured.append((f"share of the limit used, {of}", 0.95, FIGURES[f"used {key}"]))
        measured.append((f"share answered 429, {of}", -0.02, FIGURES[f"refused {key}"]))
        if key[1] > 1:
            measured.append((f"fairness, {of}", 0.95, FIGURES[f"fairness {key}"]))
    return table(
        ("figure", "aim", "measured", ""),
        (
            (
                name,
                f"at least {aim:g}" if aim > 0 else f"at most {-aim:g}",
                f"{value:.3f}",
                "" if (value >= aim if aim > 0 else value <= -aim) else "**short**",
            )
            for name, aim, value in measured
        ),
    )


def compared(values: Sequence[float], base: Sequence[float]) -> tuple[str, str]:
    """The median of the ratios within each turn, and their range."""
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    return f"{median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)]


def machine(server: str) -> list[str]:
    """What it was measured on."""
    names = (
        "apache-airflow",
        "aiohttp",
        "requests",
        "SQLAlchemy",
        "apache-airflow-providers-http",
        "drt-core",
    )
    model = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return [
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + f", {server}; {os.cpu_count()} cores"
        + (f" ({model[0]})" if model else "")
        + f", {platform.system()} {platform.release().partition('-')[0]}.",
    ]


def main() -> None:
    """Measure, and write it down."""
    started = time.monotonic()
    parts: list[str] = []

    def part(title: str, about: str, lines: list[str]) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {title}", file=sys.stderr)
        parts.extend(["", f"## {title}", "", about, "", *lines])

    part(
        "Imports",
        "What a DAG file that imports the module waits for at each parse, beyond Airflow's own base classes.",
        imported(),
    )
    with servers.constant() as (url, server), servers.postgres() as database:
        with tempfile.TemporaryDirectory() as folder:
            part(
                "Answers at once",
                f"Against {server}, which gives the documentation's answer to everything; {IN_FLIGHT} "
                "requests in flight where a way can have several.",
                throughput(url, database, folder),
            )
            part(
                "Answers that take their time",
                "Against the sandbox, a Python program that is itself the limit at 0 ms; "
                f"{IN_FLIGHT} requests in flight.",
                with_latency(database, folder),
            )
        part("Rows", "Whole syncs on PostgreSQL, each in a process of its own.", by_rows(url, database))
        with servers.postgres() as metadata:
            part("Operators", "From the DAG run's start to its end.", mapped(url, metadata))
    part(
        "Pages",
        f"Airflow's API server over a ledger of {pages.ENTRIES:,} entries on PostgreSQL, spread evenly over "
        f"{pages.DAYS} days.",
        paged(),
    )
    part(
        "Partial refunds",
        "`refund_many` to a server to which a connection takes a round trip, as does each answer; "
        f"{connections.IN_FLIGHT} requests in flight. Full refunds share connections that are kept, each "
        "partial one has its own. TLS would add another round trip to each connection.",
        of_parts(),
    )
    part(
        "Many sites",
        f"One sync of {sites.REFUNDS:,} refunds over {len(sites.SITES)} sites, each named after how many "
        "requests a second it takes; a firewall's page answers each twentieth order of `blocks-50`. Two "
        "sites deny the key and one answers nothing but 429. Until the site's last refund was answered.",
        by_site(),
    )
    part(
        "Hidden limits",
        f"The sandbox's bucket holds one second's worth; {pacing.MEASURED} s after the first "
        f"{pacing.WARM_UP} s, workers that know nothing of each other.",
        paced(),
    )
    part("Aims", "What it should reach, and what it reaches.", [*aims(), "", WHY])
    head = [
        "# Results",
        "",
        f"By `make bench`, each figure the median of {RUNS} interleaved runs unless it says otherwise.",
        *machine(server),
    ]
    RESULTS.write_text("\n".join([*head, *parts, ""]))
    print(f"{time.monotonic() - started:5.0f} s  {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
