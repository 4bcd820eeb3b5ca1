"""The sync of a warehouse's refunds to Talkable."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import Asset, conf

from airflow_provider_talkable.links.talkable import TalkableLedgerLink, TalkableSiteLink
from airflow_provider_talkable.operators._ignored import IGNORE_ADVICE, IGNORED, ignored
from airflow_provider_talkable.operators._rendered import as_list_or_one
from airflow_provider_talkable.operators._report import BY_SITE, name_map_index, plain_errors
from airflow_provider_talkable.operators._supervision import STOPPED_FROM_OUTSIDE, Supervision
from airflow_provider_talkable.operators._warehouse import WarehouseOperator
from airflow_provider_talkable.protocol.errors import (
    InvalidRefund,
    TalkableError,
    TalkableNotCounted,
    TalkableOriginNotFound,
    TalkableRejected,
    TalkableThrottled,
)
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.values import text_of_id

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_talkable.sync.run import RefundSync, Rules
    from airflow_provider_talkable.sync.summary import Summary

log = logging.getLogger(__name__)

_LONGEST_POLL = 60.0  # seconds
_LONGEST_DEFERRAL = 6 * 3600.0
# The scheduler takes some seconds to notice the end of the process that deferred. A task resumed before
# that, Airflow up to 3.3 takes for one killed from outside, and fails it:
# https://github.com/apache/airflow/issues/72716
_SHORTEST_POLL = 10.0
# What the ledger does not know, and a resumed run goes on counting.
_CARRIED = (
    "sent",
    "requests",
    "lookups",
    "throttled_requests",
    "seconds",
    "ledger_seconds",
    "ledger_created",
)
_ERRORS: dict[str, type[TalkableError]] = {
    kind.outcome: kind
    for kind in (
        InvalidRefund,
        TalkableNotCounted,
        TalkableOriginNotFound,
        TalkableRejected,
        TalkableThrottled,
    )
}
_ADVICE: dict[str, str] = {
    Outcome.NOT_FOUND: IGNORE_ADVICE,
    Outcome.NOT_COUNTED: "Talkable has another refund of the order; see the page Operation",
    Outcome.REJECTED: "fix the reason, then name it in resend",
    Outcome.INVALID: "correct the query or the row",
    Outcome.CONFLICT: "give a further refund a refund_key of its own",
    Outcome.UNCONFIRMED: "look each order up in Talkable, then settle it; see the page Operation",
    Outcome.THROTTLED: "the next run sends them",
    Outcome.FAILED: "the next run sends them",
    Outcome.ABORTED: "the next run sends them",
}


class SqlToTalkableRefundOperator(WarehouseOperator):
    """Refunds what a query returns, and keeps in a ledger what happened to each refund.

    Run it again as often as you like: what the ledger says is settled is not sent again. Every refund
    the query returns ends in the ledger with an outcome; delivery is at least once for full
    refunds, where Talkable itself makes a repeat harmless, and at most once for partial ones.

    The rows are copied to local disk first, so no transaction is open in the warehouse while Talkable is
    called. A summary is pushed to XCom, as ``return_value`` if the task succeeds and under the key
    ``summary`` always, every half a minute while it runs too; an asset among ``outlets`` gets it as its
    event's extra.

    :param sql: One statement in the warehouse's own SQL, or the name of a ``.sql`` file. Its columns:
        ``origin_slug``, or ``order_number``, or ``event_category`` with ``event_number``; optional
        ``refund_key`` (the refund's own id; default for a refund of a whole order: the origin slug),
        ``refunded_at``, ``refund_subtotal`` (needs ``refund_key``), ``order_subtotal``, ``site_slug``.
    :param sql_conn_id: The warehouse: a connection of any type whose provider has a SQL hook.
    :param parameters: Values for the query's placeholders, in the style of the warehouse's driver: a mapping
        or a sequence, or its text (JSON or Python). What a template stands for is text.
    :param site_slug: The Talkable site id of rows that name none; default: the connection's.
    :param talkable_conn_id: The Talkable connection.
    :param ledger_conn_id: Where the ledger lies; default: in the warehouse.
    :param ledger_table: The ledger's table, quoted as it is; made if it is missing.
    :param ledger_schema: Its schema, quoted as it is; default: the connection's.
    :param resend: Outcomes to try again although they are settled or held: ``not_found``, ``not_counted``,
        ``rejected``, ``conflict``.
    :param resend_keys: The ``refund_key`` of each refund to send again, whatever holds it, once somebody has
        looked it up: a list, or the text of one as JSON or Python. What Talkable says it has is not sent
        again, nor what a run may still be sending, nor what an earlier try of this task has sent.
    :param ignore: Outcomes that do not fail the task, one or several; all others that are no success do.
        ``()`` ignores none.
    :param max_failure_ratio: The share of failures, 0 to 1, above which the task fails once every row has
        its outcome; of the refunds that this DAG run was the first to settle or try. Those whose outcome is
        ignored count neither way.
    :param warn_late: Warn if more refunds than this were late, without failing: the log and ``alerts`` in
        the summary say so; ``None``: never.
    :param warn_open_after: Warn likewise if a refund is open that was refunded longer ago: ``failed``,
        ``throttled``, ``aborted`` or ``unconfirmed``; ``None``: never.
    :param abort_after: Stop after so many identical rejections, or pages in Talkable's place, in a row with
        no success between.
    :param fetch_referral: Ask for the referral where Talkable answers a refund with the order alone: one
        more request for most refunds. With ``void_referral``: ask what was paid for those that are too late.
    :param void_referral: Void the referral of each whole refund that Talkable has, which answers with the
        referral as well. Whatever happens to it, the refund's outcome stays.
    :param require_subtotal: A row without ``refund_subtotal`` is ``invalid``; default: it refunds the whole
        order. Set it where each refund has an amount, so that one that is missing does not refund more.
    :param preview: Send nothing and write nothing: report what would be sent.
    :param deferrable: Free the worker slot while Talkable throttles for longer than the patience, or does not
        answer at all; for six hours at most.
    :param throttle_patience: Seconds to wait while Talkable answers a site with nothing but 429.
    :param outage_patience: Seconds to wait while the host does not answer at all, before the rest is left to
        the next run.
    :param max_attempts: How many times a request is sent before its failure stands.
    :param max_in_flight: Requests under way at a time.
    :param initial_rate: Requests per second to begin with, for each site, doubled each second until
        Talkable first answers 429; ``None``: unpaced until then.
    :param max_rate: Requests per second never to exceed, for each site.
    :raises InvalidRefund: if the query's columns are not those of a refund; nothing was sent then.
    :raises TalkableError: at the end, if too many refunds failed: the class that fits, if one fits all
        of them; whatever is ignored, if Talkable denies a site, or knows none of 50 and more orders of a
        site of which no refund was ever taken. Before it, the one that stopped the run:
        :class:`~airflow_provider_talkable.TalkableAuthError` for a refused key,
        :class:`~airflow_provider_talkable.LedgerLost` if the ledger's database went away.
    """

    template_fields: Sequence[str] = (*WarehouseOperator.template_fields, "resend", "resend_keys", "preview")

    operator_extra_links = (TalkableSiteLink(), TalkableLedgerLink())

    _sync: RefundSync | None = None
    _base_url = ""
    _sites: Sequence[str] = ()
    _is_killed = False

    def __init__(
        self,
        *,
        resend: Iterable[Outcome | str] | str = (),
        resend_keys: Iterable[Any] | str = (),
        ignore: Iterable[Outcome | str] = IGNORED,
        max_failure_ratio: float = 0.0,
        warn_late: int | None = None,
        warn_open_after: timedelta | None = None,
        abort_after: int = 20,
        fetch_referral: bool = False,
        void_referral: bool = False,
        require_subtotal: bool = False,
        preview: bool | str = False,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.resend = resend
        self.resend_keys = resend_keys
        self.ignore = ignored(Outcome, ignore)
        if not 0 <= max_failure_ratio <= 1:
            raise ValueError(f"max_failure_ratio={max_failure_ratio!r}: give a share, 0 to 1")
        if warn_late is not None and warn_late < 0:
            raise ValueError(f"warn_late={warn_late!r}: give a number of refunds, 0 or more, or None")
        if warn_open_after is not None and not (
            isinstance(warn_open_after, timedelta) and warn_open_after > timedelta(0)
        ):
            raise ValueError(f"warn_open_after={warn_open_after!r}: give a timedelta above 0, or None")
        if abort_after < 1:
            raise ValueError(f"abort_after={abort_after!r}: give 1 or more")
        self.max_failure_ratio = max_failure_ratio
        self.warn_late = warn_late
        self.warn_open_after = warn_open_after
        self.abort_after = abort_after
        self.fetch_referral = fetch_referral
        self.void_referral = void_referral
        self.require_subtotal = require_subtotal
        self.preview = preview
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False)
            if deferrable is None
            else deferrable
        )

    @plain_errors
    def execute(self, context: Context) -> dict[str, Any]:
        """Sync, push the summary, and fail if an outcome calls for it."""
        return self._run(context)

    @plain_errors
    def resume(self, context: Context, event: dict[str, Any], carried: dict[str, Any]) -> dict[str, Any]:
        """Go on where the ledger says, after the site was throttled; without pause if it still is."""
        site = event["site_slug"]
        if event["is_over"]:
            log.info("Talkable lets site %s through again; going on", site)
        else:
            log.warning(
                "Talkable has throttled site %s, or not answered, for %g h: this is the last try",
                site,
                _LONGEST_DEFERRAL / 3600,
            )
        return self._run(context, may_pause=event["is_over"], **carried)

    def on_kill(self) -> None:
        """Let what is on the wire end, and send nothing more."""
        self._is_killed = True
        if self._sync:
            self._sync.stop(STOPPED_FROM_OUTSIDE)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:  # noqa: ARG002
        """What OpenLineage gets, of a failed task too: the query's tables, the sites, the summary."""
        from airflow_provider_talkable import lineage

        summary = self._sync.summary if self._sync else None
        return lineage.of_sync(
            self._base_url, self._sites, sql=self.sql, sql_conn_id=self.sql_conn_id, summary=summary
        )

    def _run(
        self,
        context: Context,
        *,
        writer: str | None = None,
        gives_up_at: float | None = None,
        may_pause: bool = True,
        **carried: Any,
    ) -> dict[str, Any]:
        from airflow_provider_talkable.sync.preview import preview
        from airflow_provider_talkable.sync.run import RefundSync
        from airflow_provider_talkable.sync.snapshot import Snapshot
        from airflow_provider_talkable.sync.summary import Summary

        supervision = Supervision(context)
        name_map_index(context, BY_SITE)
        rules = self._rules(may_pause=may_pause and bool(self.deferrable))
        is_preview = _boolean("preview", self.preview)
        hook = self._hook()
        # Whatever is wrong with the connections shows before the warehouse is asked for rows.
        config = hook.get_conn().config
        TalkableSiteLink().push(context, hook.site_slug)
        with ExitStack() as opened:
            ledger = self._ledger(self._ledgers(opened), context, writer)
            ledger.open(create=not is_preview)
            TalkableLedgerLink().push(context, None if is_preview else ledger.query)
            snapshot = opened.enter_context(Snapshot())
            snapshot.fill(self._rows(hook.site_slug, require_subtotal=self.require_subtotal))
            log.info("The query returned %d rows, %d refunds", snapshot.rows, snapshot.refunds)
            self._base_url, self._sites = config.base_url, snapshot.sites
            carried["unmatched_keys"] = _unmatched(snapshot.sites_of(rules.resend_keys))
            if is_preview:
                # Airflow takes each outlet of a task that succeeds for updated.
                self.outlets = []
                summary = preview(
                    snapshot,
                    ledger,
                    rules.resend,
                    resend_keys=rules.resend_keys,
                    void_referral=rules.void_referral,
                )
                summary.unmatched_keys = carried["unmatched_keys"]
                return self._tell(context, summary)
            self._sync = RefundSync(
                snapshot,
                ledger,
                config,
                policy=hook.policy,
                pace=hook.pace,
                rules=rules,
                summary=Summary(**carried),
                report=partial(self._report, context, supervision),
                reason_to_stop=supervision.reason_to_stop,
            )
            return self._send(context, self._sync, ledger.writer, supervision, gives_up_at)

    def _send(
        self,
        context: Context,
        sync: RefundSync,
        writer: str,
        supervision: Supervision,
        gives_up_at: float | None,
    ) -> dict[str, Any]:
        from airflow_provider_talkable import metrics

        if self._is_killed:
            self.on_kill()
        stopped: BaseException | None = None
        try:
            stopped = sync.run()
        finally:
            # Whatever ends it, a timeout of Airflow's included, what was learned is kept. Where nobody waits
            # for it, the ledger has it, and a summary would stand in the place of the retry's.
            if not (sync.paused_site or supervision.is_gone):
                summary = self._tell(context, sync.summary)
                metrics.emit(sync.summary, dag_id=context["ti"].dag_id, task_id=context["ti"].task_id)
        if stopped:
            raise stopped
        supervision.raise_if_lost()
        if sync.paused_site:
            self._defer(sync, writer, gives_up_at or time.time() + _LONGEST_DEFERRAL)
        self._judge(sync.summary, sync.retry_after)
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra = summary
        return summary

    def _defer(self, sync: RefundSync, writer: str, gives_up_at: float) -> NoReturn:
        from airflow_provider_talkable.triggers.throttle import TalkableThrottleTrigger

        poll_interval = min(_LONGEST_POLL, max(_SHORTEST_POLL, self.throttle_patience))
        log.warning(
            "Talkable throttles site %s, or does not answer: the worker slot is released; asking again at "
            "%s, then every %g s until %s. So far: %s",
            sync.paused_site,
            _clock_time(time.time() + poll_interval),
            poll_interval,
            _clock_time(gives_up_at),
            sync.summary.tally(),
        )
        carried = {name: getattr(sync.summary, name) for name in _CARRIED}
        self.defer(
            trigger=TalkableThrottleTrigger(
                self.talkable_conn_id, str(sync.paused_site), poll_interval, gives_up_at=gives_up_at
            ),
            method_name=self.resume.__name__,
            kwargs={"carried": {"writer": writer, "gives_up_at": gives_up_at, **carried}},
        )

    def _rules(self, *, may_pause: bool) -> Rules:
        from airflow_provider_talkable.sync.decisions import RESENDABLE
        from airflow_provider_talkable.sync.run import Rules

        given: Any = as_list_or_one("resend", self.resend)
        names = given.replace(",", " ").split() if isinstance(given, str) else list(given)
        known = {outcome.value for outcome in RESENDABLE}
        for name in names:
            if name == Outcome.UNCONFIRMED:
                raise ValueError(
                    f"resend={name!r}: Talkable may have some of these refunds, and would count them twice; "
                    "look each up in Talkable, then settle it with 'airflow talkable ledger settle', or name "
                    "it in resend_keys"
                )
            if name not in known:
                raise ValueError(f"resend={name!r}: give some of {', '.join(sorted(known))}")
        return Rules(
            frozenset(map(Outcome, names)),
            self.abort_after,
            self.fetch_referral,
            self.void_referral,
            may_pause,
            _keys(self.resend_keys),
        )

    def _tell(self, context: Context, summary: Summary) -> dict[str, Any]:
        """Push the summary, and end the log with it."""
        from airflow_provider_talkable.sync.alerts import alerts_of

        summary.alerts = list(
            alerts_of(summary, warn_late=self.warn_late, warn_open_after=self.warn_open_after)
        )
        for line in summary.warnings():
            log.warning("%s", line)
        for line in summary.lines():
            log.info("%s", line)
        return self._push(context, summary)

    def _report(self, context: Context, supervision: Supervision, summary: Summary) -> None:
        with supervision.reporting():
            self._push(context, summary)

    def _push(self, context: Context, summary: Summary) -> dict[str, Any]:
        pushed = summary.as_dict()
        context["ti"].xcom_push(key="summary", value=pushed)
        return pushed

    def _judge(self, summary: Summary, retry_after: float | None) -> None:
        counted = {name: count for name, count in summary.outcomes.items() if name not in self.ignore}
        failures = {name: count for name, count in counted.items() if not Outcome(name).is_success}
        failed, tried = sum(failures.values()), sum(counted.values())
        if failed and failed / tried > self.max_failure_ratio:
            kind = _ERRORS.get(next(iter(failures)), TalkableError) if len(failures) == 1 else TalkableError
            reasons = ", ".join(f"{count} {name}: {_ADVICE[name]}" for name, count in failures.items())
            rest = summary.outcomes.total() - tried
            error = kind(
                f"{failed} of {tried} refunds failed ({reasons}), more than max_failure_ratio="
                f"{self.max_failure_ratio:g} allows; the ledger {self.ledger_table} has each"
                + (f"; ignored: {rest} {', '.join(sorted(self.ignore))}" if rest else "")
            )
            error.retry_after = retry_after
            raise error


def _keys(given: Any) -> frozenset[str]:
    """Read refund keys, as they come from a template or an XCom."""
    read = as_list_or_one("resend_keys", given)
    if isinstance(read, Mapping):
        raise InvalidRefund.of("resend_keys", given, "is a mapping; give a list of refund keys")
    if read is None or (isinstance(read, str) and not read.strip()):
        return frozenset()
    # What is no collection is one key.
    keys = read if isinstance(read, Iterable) and not isinstance(read, str | bytes) else [read]
    return frozenset(text_of_id("resend_keys", key) for key in keys)


def _unmatched(sites_of: Mapping[str, Sequence[str]]) -> list[str]:
    """The keys that no row has.

    :raises InvalidRefund: if several sites have a refund of the same key; nothing was sent then.
    """
    for key, sites in sites_of.items():
        if len(sites) > 1:
            raise InvalidRefund.of(
                "resend_keys",
                key,
                f"is a refund of each of the sites {', '.join(sites)}; let the query select one site's rows",
            )
    return sorted(key for key, sites in sites_of.items() if not sites)


def _clock_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S} UTC"


def _boolean(field: str, value: bool | str) -> bool:
    """Read a flag that a template may have turned into text."""
    text = str(value).strip().lower()
    if text not in ("true", "false"):
        raise ValueError(f"{field}={value!r}: give True or False")
    return text == "true"
