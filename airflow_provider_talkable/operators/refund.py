"""The operator that refunds one order or many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from airflow_provider_talkable.hooks.databases import engine_of
from airflow_provider_talkable.links.talkable import TalkableLedgerLink, TalkableSiteLink
from airflow_provider_talkable.operators._given_refunds import (
    keyed_refund,
    ledger_row,
    rows_given,
    without_ambiguous,
)
from airflow_provider_talkable.operators._ignored import IGNORED, ignored
from airflow_provider_talkable.operators._refund_batch import RefundBatch
from airflow_provider_talkable.operators._rendered import TextTemplateOperator
from airflow_provider_talkable.operators._report import BY_ORDER, name_map_index, plain_errors, report
from airflow_provider_talkable.operators._supervision import STOPPED_FROM_OUTSIDE, Supervision
from airflow_provider_talkable.operators._task_state import TaskState
from airflow_provider_talkable.operators._warehouse import task_run
from airflow_provider_talkable.protocol.errors import InvalidRefund
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.results import RefundResult

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_talkable.hooks.talkable import TalkableHook
    from airflow_provider_talkable.sync.refund_list import RefundList

T = TypeVar("T")


class TalkableRefundOperator(TextTemplateOperator):
    """Refunds one order, or each of a list, and pushes what happened to them to XCom.

    All of a list is tried before the task fails. The results are in XCom either way: as
    ``return_value`` if the task succeeds, under the key ``results`` always. One refund gives one
    dictionary, a list of refunds gives a list in the same order::

        {"origin_slug", "outcome", "referral", "origin", "late", "http_status", "error_message", "attempts",
         "void_outcome"}

    With ``ledger_conn_id`` it reads and writes the ledger of ``SqlToTalkableRefundOperator``: what is settled
    there is not sent again, by whichever run or task. It is the way to send partial refunds, each with a
    ``refund_key``. Of what was settled before, ``referral`` has ``id``, ``status`` and ``ad_rewarded`` only.

    Without a ledger a later try of the task leaves alone what an earlier one has settled, as far as
    Airflow's task state store (3.3 and newer) says so. Where it does not, or there is none, full refunds are
    sent again, which is harmless, and partial ones are ``unconfirmed``.

    Every field of the refund is templated and takes what XCom or Jinja gives: a value, a list, or a
    list's text (JSON or Python).

    :param origin_slug: An order number, ``event_category:event_number``, or a list of those.
    :param refunds: Instead of ``origin_slug``: a mapping, or a list of mappings and slugs. The keys
        of a mapping, whatever their case, are ``origin_slug``, or ``order_number``, or ``event_category``
        with ``event_number``; optional ``refunded_at``, ``refund_subtotal``, ``order_subtotal`` (an amount
        that reaches it refunds the whole order), ``site_slug``, ``refund_key`` (the refund's own id;
        distinguishes equal parts of an order, and with a ledger every part needs one).
    :param refunded_at: When the origins in ``origin_slug`` were refunded: ISO 8601 text, a datetime
        (naive is UTC) or a date.
    :param refund_subtotal: For one ``origin_slug``: the refunded part, in the shop's currency.
        ``None`` refunds the whole order.
    :param order_subtotal: For one ``origin_slug``: the order's whole subtotal. A ``refund_subtotal`` that
        reaches it refunds the whole order.
    :param refund_key: For one ``origin_slug``: the refund's own id; default with a ledger: the origin slug,
        where the whole order is refunded.
    :param site_slug: The Talkable site id of refunds that name none; default: the connection's.
    :param talkable_conn_id: The Talkable connection.
    :param ledger_conn_id: Where the ledger lies: any connection whose hook gives a SQLAlchemy engine;
        default: there is none.
    :param ledger_table: The ledger's table, quoted as it is; made if it is missing.
    :param ledger_schema: Its schema, quoted as it is; default: the connection's.
    :param ignore: Outcomes that do not fail the task, one or several; all others that are no success do.
        ``()`` ignores none.
    :param fetch_referral: Ask for the referral where Talkable answers a refund with the order alone.
    :param void_referral: Void the referral of each whole refund that Talkable has, which answers with the
        referral as well: then nothing else is asked. Whatever happens to it, the refund's outcome stays.
    :param require_subtotal: A refund without ``refund_subtotal`` is ``invalid``; default: it refunds the
        whole order.
    :param redact_people: Leave names, e-mail addresses, phone numbers and IP addresses out of XCom.
    :param throttle_patience: Seconds to wait while Talkable answers a site with nothing but 429.
    :param max_in_flight: Requests under way at a time.
    :param max_rate: Requests per second never to exceed, for each site.
    :raises InvalidRefund: if what rendered is no refund and no list; nothing was sent then.
    :raises TalkableError: after everything was tried, if an outcome is neither a success nor among
        ``ignore``: the class that fits, if one fits all that failed. Whatever is ignored, if Talkable knows
        none of 50 and more orders. With a ledger also if the key is refused, or
        :class:`~airflow_provider_talkable.LedgerError` if the ledger cannot be used.
    """

    template_fields: Sequence[str] = (
        "origin_slug",
        "refunds",
        "refunded_at",
        "refund_subtotal",
        "order_subtotal",
        "refund_key",
        "site_slug",
        "talkable_conn_id",
        "ledger_conn_id",
        "ledger_table",
        "ledger_schema",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"refunds": "json"}
    ui_color = "#e9f5ef"
    operator_extra_links = (TalkableSiteLink(), TalkableLedgerLink())

    _batch: RefundBatch | RefundList | None = None
    _base_url = ""
    _sites: Sequence[str] = ()
    _is_killed = False
    _is_list = False

    def __init__(
        self,
        *,
        origin_slug: Any = None,
        refunds: Any = None,
        refunded_at: Any = None,
        refund_subtotal: Any = None,
        order_subtotal: Any = None,
        refund_key: Any = None,
        site_slug: str | None = None,
        talkable_conn_id: str = "talkable_default",
        ledger_conn_id: str | None = None,
        ledger_table: str = "talkable_refund_ledger",
        ledger_schema: str | None = None,
        ignore: Iterable[Outcome | str] = IGNORED,
        fetch_referral: bool = False,
        void_referral: bool = False,
        require_subtotal: bool = False,
        redact_people: bool = False,
        throttle_patience: float = 300.0,
        max_in_flight: int = 16,
        max_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.origin_slug = origin_slug
        self.refunds = refunds
        self.refunded_at = refunded_at
        self.refund_subtotal = refund_subtotal
        self.order_subtotal = order_subtotal
        self.refund_key = refund_key
        self.site_slug = site_slug
        self.talkable_conn_id = talkable_conn_id
        self.ledger_conn_id = ledger_conn_id
        self.ledger_table = ledger_table
        self.ledger_schema = ledger_schema
        self.ignore = ignored(Outcome, ignore)
        self.fetch_referral = fetch_referral
        self.void_referral = void_referral
        self.require_subtotal = require_subtotal
        self.redact_people = redact_people
        self.throttle_patience = throttle_patience
        self.max_in_flight = max_in_flight
        self.max_rate = max_rate

    @plain_errors
    def execute(self, context: Context) -> dict[str, Any] | list[dict[str, Any]]:
        """Refund, push the results, and fail if an outcome calls for it."""
        supervision = Supervision(context)
        name_map_index(context, BY_ORDER)
        # Before anything can fail: it notes that the task has begun.
        state = None if self.ledger_conn_id else self._task_state(context)
        hook = self._hook()
        rows = rows_given(self.origin_slug, self.refunds, self._details)
        self._is_list = isinstance(rows, list)
        rows = rows if self._is_list else [rows]
        if state:
            TalkableLedgerLink().push(context, None)
        with ExitStack() as opened:
            self._batch = batch = (
                self._through_task_state(rows, hook, state, supervision)
                if state
                else self._through_ledger(rows, hook, context, supervision, opened)
            )
            self._sites = batch.sites
            TalkableSiteLink().push(context, next(iter(self._sites), None))
            if self._sites:
                self._base_url = hook.get_conn().config.base_url
            if self._is_killed:
                self.on_kill()
            try:
                batch.send()
            finally:
                # Whatever ends the sending, a timeout of Airflow's included, what was learned is kept.
                pushed = self._push(context, batch.results(), supervision)
        supervision.raise_if_lost()
        report("refunds", batch.results(), self.ignore)
        return pushed

    def _push(
        self, context: Context, results: Sequence[RefundResult], supervision: Supervision
    ) -> dict[str, Any] | list[dict[str, Any]]:
        shown = [(r.redacted() if self.redact_people else r).as_dict() for r in results]
        pushed = shown if self._is_list else shown[0]
        # Where nobody waits for it, it would stand in the place of the retry's.
        if not supervision.is_gone:
            with supervision.reporting():
                context["ti"].xcom_push(key="results", value=pushed)
        return pushed

    def _task_state(self, context: Context) -> TaskState:
        given = (self.origin_slug, self.refunds, self.site_slug, self._details)
        return TaskState(context, given, redact_people=self.redact_people)

    def on_kill(self) -> None:
        """Let what is on the wire end, and send nothing more."""
        self._is_killed = True
        if self._batch:
            self._batch.stop(STOPPED_FROM_OUTSIDE)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:  # noqa: ARG002
        """What OpenLineage gets, of a failed task too: the sites whose refunds were sent."""
        from airflow_provider_talkable import lineage

        return lineage.of_refunds(self._base_url, self._sites)

    @property
    def _details(self) -> dict[str, Any]:
        """What goes with one origin slug."""
        return {
            "refunded_at": self.refunded_at,
            "refund_subtotal": self.refund_subtotal,
            "order_subtotal": self.order_subtotal,
            "refund_key": self.refund_key,
        }

    def _hook(self) -> TalkableHook:
        from airflow_provider_talkable.hooks.talkable import TalkableHook

        return TalkableHook(
            self.talkable_conn_id,
            site_slug=self.site_slug,
            throttle_patience=self.throttle_patience,
            max_in_flight=self.max_in_flight,
            max_rate=self.max_rate,
        )

    def _through_task_state(
        self, rows: Sequence[Any], hook: TalkableHook, state: TaskState, supervision: Supervision
    ) -> RefundBatch:
        given = without_ambiguous(self._read_all(keyed_refund, rows, hook))
        return RefundBatch(
            given,
            state,
            hook,
            supervision,
            fetch_referral=self.fetch_referral,
            void_referral=self.void_referral,
        )

    def _through_ledger(
        self,
        rows: Sequence[Any],
        hook: TalkableHook,
        context: Context,
        supervision: Supervision,
        opened: ExitStack,
    ) -> RefundList:
        from airflow_provider_talkable.sync.ledger import Ledger
        from airflow_provider_talkable.sync.refund_list import RefundList

        given = self._read_all(ledger_row, rows, hook)
        ledger = Ledger(
            engine_of(str(self.ledger_conn_id), opened),
            table=self.ledger_table,
            schema=self.ledger_schema or None,
            task_run=task_run(context),
        )
        ledger.open()
        TalkableLedgerLink().push(context, ledger.query)
        return RefundList(
            given,
            ledger,
            hook.get_conn().config,
            policy=hook.policy,
            pace=hook.pace,
            fetch_referral=self.fetch_referral,
            void_referral=self.void_referral,
            reason_to_stop=supervision.reason_to_stop,
        )

    def _read_all(
        self,
        read: Callable[[object, Mapping[str, object] | None, str | None, bool], T],
        rows: Sequence[Any],
        hook: TalkableHook,
    ) -> list[T | RefundResult]:
        """Validate rows; of a list, one that makes no refund is kept as a result: the others are tried."""
        details = self._details if self.refunds is None else None
        given: list[T | RefundResult] = []
        for row in rows:
            try:
                given.append(read(row, details, hook.site_slug, self.require_subtotal))
            except InvalidRefund as error:
                if not self._is_list:
                    raise
                given.append(RefundResult.invalid(row, error))
        return given
