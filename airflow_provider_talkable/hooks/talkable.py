"""The hook: a Talkable connection, and what can be done over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import BaseHook, Connection

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.get_provider_info import get_provider_info
from airflow_provider_talkable.protocol.errors import (
    InvalidConnection,
    TalkableAccessDenied,
    TalkableAuthError,
    TalkableError,
)
from airflow_provider_talkable.protocol.referrals import JsonObject, ReferralResult, ReferralUpdate
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult

# The clients import requests and aiohttp: brought in when they are needed, not when a DAG file is parsed.
if TYPE_CHECKING:
    from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient
    from airflow_provider_talkable.client.sync import TalkableClient

_EXTRAS = ("site_slug", "auth_scheme", "timeout", "ca_bundle", "proxy")


class TalkableHook(BaseHook):
    """Talks to Talkable with the credentials of an Airflow connection.

    The connection holds the API key as its password, and the rest in its extra. It is
    looked up when it is first needed, not when the hook is made.

    :param talkable_conn_id: The connection's id.
    :param site_slug: The Talkable site id of refunds that name none; default: the connection's.
    :param max_attempts: How many times a request is sent before its failure stands.
    :param throttle_patience: Seconds to wait in all while Talkable answers 429 to one request.
    :param outage_patience: Seconds for which :meth:`refund_many` waits while the host does not answer.
    :param max_in_flight: How many requests :meth:`refund_many` has under way at a time.
    :param initial_rate: Requests per second it begins with, for each site, doubled each second until
        Talkable first answers 429; ``None``: unpaced until then.
    :param max_rate: Requests per second it never exceeds, for each site.
    """

    conn_name_attr = "talkable_conn_id"
    default_conn_name = "talkable_default"
    conn_type = "talkable"
    hook_name = "Talkable"

    def __init__(
        self,
        talkable_conn_id: str = default_conn_name,
        *,
        site_slug: str | None = None,
        max_attempts: int = 5,
        throttle_patience: float = 300.0,
        outage_patience: float = 60.0,
        max_in_flight: int = 16,
        initial_rate: float | None = 5.0,
        max_rate: float | None = None,
    ) -> None:
        super().__init__()
        self.talkable_conn_id = talkable_conn_id
        self._site_slug = site_slug
        self.policy = RetryPolicy(max_attempts, throttle_patience, outage_patience)
        self.pace = Pace(max_in_flight, initial_rate, max_rate)
        self._client: TalkableClient | None = None

    def get_conn(self) -> TalkableClient:
        """The client for this connection, made once.

        :raises InvalidConnection: if the connection cannot be used, naming the field and the remedy.
        """
        if self._client is None:
            from airflow_provider_talkable.client.sync import TalkableClient

            config = config_of(self.get_connection(self.talkable_conn_id))
            self._client = TalkableClient(config, self.policy)
        return self._client

    @property
    def site_slug(self) -> str | None:
        """The Talkable site id of refunds that name none."""
        return self.get_conn().config.site_slug if self._site_slug is None else self._site_slug

    def refund(
        self,
        origin_slug: str,
        *,
        refunded_at: object = None,
        refund_subtotal: object = None,
        order_subtotal: object = None,
        site_slug: str | None = None,
    ) -> RefundResult:
        """Refund one origin: ``POST /api/v2/origins/<origin_slug>/refund``.

        :param origin_slug: An order number, or ``event_category:event_number``.
        :param refunded_at: ISO 8601 text, a datetime (naive is UTC) or a date.
        :param refund_subtotal: The refunded part in the shop's currency; ``None`` refunds it all.
        :param order_subtotal: The order's whole subtotal; a ``refund_subtotal`` that reaches it refunds all.
        :param site_slug: The Talkable site id; default: the hook's.
        :return: A result whose outcome is ``refunded`` or ``already_refunded``.
        :raises InvalidRefund: if the input makes no refund; nothing was sent then.
        :raises TalkableError: the subclass that says what went wrong.
        """
        refund = Refund.parse(
            origin_slug,
            site_slug=self.site_slug if site_slug is None else site_slug,
            refunded_at=refunded_at,
            refund_subtotal=refund_subtotal,
            order_subtotal=order_subtotal,
        )
        result = self.get_conn().refund(refund)
        result.raise_for_outcome()
        self._add_lineage(refund.site_slug)
        return result

    def refund_many(
        self,
        refunds: Iterable[Refund],
        *,
        fetch_referral: bool = False,
        void_referral: bool = False,
        reason_to_stop: Callable[[], str | None] | None = None,
    ) -> Iterator[RefundResult]:
        """Send refunds, several at a time, and yield what happened to each, in the same order.

        It begins gently and learns from Talkable's 429s how fast the site takes them. No refund
        stops the others; only a refused API key does: those after it are ``aborted``. Where Talkable
        denies the key one site, those of that site are.

        :param refunds: Taken one by one, as there is room for them.
        :param fetch_referral: Ask for the referral where Talkable answers a refund with the origin alone.
        :param void_referral: Void the referral of whole refunds that Talkable has; it then asks nothing else.
        :param reason_to_stop: Asked several times a second; once it returns a reason, requests on the wire
            have ten seconds to end, and nothing more is sent.
        :raises TalkableError: with that reason, once every refund that was taken has its result.
        """
        from airflow_provider_talkable.client.concurrent import send_many
        from airflow_provider_talkable.client.operations import RefundOperation

        operation = RefundOperation(fetch_referral=fetch_referral, void_referral=void_referral)
        return send_many(
            self.get_conn().config,
            self.policy,
            self.pace,
            operation,
            self._with_lineage(refunds),
            reason_to_stop=reason_to_stop,
        )

    def update_referral(
        self, origin_slug: str, status: str, *, site_slug: str | None = None
    ) -> JsonObject | None:
        """Set the status of an order's referral: ``PUT /api/v2/origins/<origin_slug>/referral``.

        :param origin_slug: An order number, or ``event_category:event_number``.
        :param status: ``approved`` or ``voided``, which are final, or ``pending``, ``flagged``, ``blocked``.
        :param site_slug: The Talkable site id; default: the hook's.
        :return: The referral as Talkable shows it then, also if it had that status before; ``None``
            where the order belongs to no referral.
        :raises InvalidRefund: if the input names no order or no status; nothing was sent then.
        :raises TalkableReferralFinal: if it has the opposite final status.
        :raises TalkableError: the subclass that says what else went wrong.
        """
        site = self.site_slug if site_slug is None else site_slug
        update = ReferralUpdate.parse(origin_slug, status=status, site_slug=site)
        return self.get_conn().update_referral(update)

    def update_referrals(
        self,
        updates: Iterable[ReferralUpdate],
        *,
        reason_to_stop: Callable[[], str | None] | None = None,
    ) -> Iterator[ReferralResult]:
        """Set many statuses, several at a time, and yield what happened to each, in the same order.

        It is paced, and stopped, like :meth:`refund_many`.
        """
        from airflow_provider_talkable.client.concurrent import send_many
        from airflow_provider_talkable.client.operations import ReferralOperation

        return send_many(
            self.get_conn().config,
            self.policy,
            self.pace,
            ReferralOperation(),
            updates,
            reason_to_stop=reason_to_stop,
        )

    def referrals_as_friend(self, person: str, *, site_slug: str | None = None) -> list[JsonObject]:
        """The referrals in which a person is the friend, the one who bought:
        ``GET /api/v2/people/<person_slug>/referrals_as_friend``.

        :param person: The friend's e-mail address, phone number (E.164), customer id or user name.
        :param site_slug: The Talkable site id; default: the hook's.
        :raises InvalidConnection: if neither names a site.
        :raises TalkablePersonNotFound: if Talkable does not know that person.
        :raises TalkableError: the subclass that says what else went wrong.
        """
        return self.get_conn().referrals_as_friend(required_site(site_slug or self.site_slug), person)

    def campaigns(self, site_slug: str | None = None) -> list[dict[str, Any]]:
        """The site's campaigns: ``GET /api/v2/campaigns``.

        :param site_slug: The Talkable site id; default: the hook's.
        :raises InvalidConnection: if neither names a site.
        :raises TalkableError: the subclass that says what went wrong.
        """
        return self.get_conn().campaigns(required_site(site_slug or self.site_slug))

    def test_connection(self) -> tuple[bool, str]:
        """Ask for the site's campaigns, which needs a valid key and changes nothing.

        When the key is refused by the auth scheme that the connection names, the other one is tried once.

        :return: Whether the connection works as it is, and a sentence for the person who asked.
        """
        try:
            return _try_key(self.get_conn().config, required_site(self.site_slug))
        except TalkableError as error:
            # The form tests under an id of its own, which would tell its reader nothing.
            return False, str(error).removeprefix(_about(self.talkable_conn_id))

    def _with_lineage(self, refunds: Iterable[Refund]) -> Iterator[Refund]:
        """The refunds, whose sites OpenLineage learns of as they are taken."""
        known = set()
        for refund in refunds:
            if refund.site_slug not in known:
                known.add(refund.site_slug)
                self._add_lineage(refund.site_slug)
            yield refund

    def _add_lineage(self, site_slug: str) -> None:
        """Let lineage have the asset of a site's refunds, where a Python task uses the hook."""
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

        try:
            collector: Any = get_hook_lineage_collector()  # type: ignore[no-untyped-call]
            collector.add_output_asset(context=self, scheme="talkable", asset_kwargs={"site_slug": site_slug})
        except Exception as error:  # noqa: BLE001 - whatever lineage raises, the refund was sent
            self.log.warning("The lineage of this refund is unknown: %s", error)

    # Airflow 3.2 and later read the form from the provider's info and skip these two.

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """The form's own fields, for Airflow before 3.2."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from wtforms import StringField

        return {
            name: StringField(
                field["label"],
                widget=BS3TextFieldWidget(),
                description=field["description"],
                default=field["schema"].get("default"),
            )
            for name, field in _declared()["conn-fields"].items()
        }

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """How the form shows the standard fields, for Airflow before 3.2."""
        declared = _declared()["ui-field-behaviour"]
        return {
            "hidden_fields": declared["hidden-fields"],
            "relabeling": declared["relabeling"],
            "placeholders": declared["placeholders"],
        }


class TalkableAsyncHook(BaseHook):
    """The asynchronous twin of :class:`TalkableHook`, for triggers.

    The connection is looked up, and sessions are opened, with each call. What a connection's host was found
    to take the key by is remembered.

    :param talkable_conn_id: The connection's id.
    :param site_slug: The Talkable site id of refunds that name none; default: the connection's.
    :param max_attempts: How many times a request is sent before its failure stands.
    :param throttle_patience: Seconds to wait in all while Talkable answers 429 to one request.
    """

    conn_name_attr = TalkableHook.conn_name_attr
    default_conn_name = TalkableHook.default_conn_name
    conn_type = TalkableHook.conn_type
    hook_name = TalkableHook.hook_name

    def __init__(
        self,
        talkable_conn_id: str = default_conn_name,
        *,
        site_slug: str | None = None,
        max_attempts: int = 5,
        throttle_patience: float = 300.0,
    ) -> None:
        super().__init__()
        self.talkable_conn_id = talkable_conn_id
        self._site_slug = site_slug
        self._policy = RetryPolicy(max_attempts, throttle_patience)
        self._config: ClientConfig | None = None

    async def refund(
        self,
        origin_slug: str,
        *,
        refunded_at: object = None,
        refund_subtotal: object = None,
        order_subtotal: object = None,
        site_slug: str | None = None,
    ) -> RefundResult:
        """Refund one origin; see :meth:`TalkableHook.refund`."""
        made = await self._client()
        refund = Refund.parse(
            origin_slug,
            site_slug=site_slug or self._site_slug or made.config.site_slug,
            refunded_at=refunded_at,
            refund_subtotal=refund_subtotal,
            order_subtotal=order_subtotal,
        )
        async with made as client:
            result = await client.refund(refund)
        result.raise_for_outcome()
        return result

    async def campaigns(self, site_slug: str | None = None) -> list[dict[str, Any]]:
        """The site's campaigns; see :meth:`TalkableHook.campaigns`."""
        made = await self._client()
        site = required_site(site_slug or self._site_slug or made.config.site_slug)
        async with made as client:
            return await client.campaigns(site)

    async def update_referral(
        self, origin_slug: str, status: str, *, site_slug: str | None = None
    ) -> JsonObject | None:
        """Set the status of an order's referral; see :meth:`TalkableHook.update_referral`."""
        made = await self._client()
        site = site_slug or self._site_slug or made.config.site_slug
        update = ReferralUpdate.parse(origin_slug, status=status, site_slug=site)
        async with made as client:
            return await client.update_referral(update)

    async def referrals_as_friend(self, person: str, *, site_slug: str | None = None) -> list[JsonObject]:
        """The referrals in which a person is the friend; see :meth:`TalkableHook.referrals_as_friend`."""
        made = await self._client()
        site = required_site(site_slug or self._site_slug or made.config.site_slug)
        async with made as client:
            return await client.referrals_as_friend(site, person)

    async def _client(self) -> AsyncTalkableClient:
        from asgiref.sync import sync_to_async

        from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient

        connection = await get_async_connection(self.talkable_conn_id)
        # To read the extra, Airflow before 3.3.2 calls its supervisor, which it cannot on the event loop.
        config = await sync_to_async(config_of)(connection)
        if self._config != config:
            self._config = config
        # An equal one that was used before knows already how the key is sent.
        return AsyncTalkableClient(self._config or config, self._policy)


def config_of(connection: Connection) -> ClientConfig:
    """Read an Airflow connection.

    :param connection: One of type ``talkable``, from a form, JSON, a URI or a secrets backend.
    :raises InvalidConnection: naming the field and the remedy.
    """
    extra = connection.extra_dejson
    extra = extra if isinstance(extra, dict) else {}
    try:
        return ClientConfig.parse(
            host=connection.host,
            schema=connection.schema,
            port=connection.port,
            api_key=connection.password,
            **{name: extra.get(name) for name in _EXTRAS},
        )
    except InvalidConnection as error:
        raise InvalidConnection(f"{_about(connection.conn_id)}{error}") from None


def required_site(site_slug: str | None) -> str:
    """The site, if there is one.

    :raises InvalidConnection: if there is none.
    """
    if not site_slug:
        raise InvalidConnection(
            "site_slug: is empty; put your Talkable site id there, e.g. my-store (Talkable dashboard)"
        )
    return site_slug


def _about(conn_id: str) -> str:
    return f"Connection {conn_id!r}: "


def _try_key(config: ClientConfig, site_slug: str) -> tuple[bool, str]:
    try:
        campaigns = _ask_once(config, site_slug)
    except TalkableAccessDenied as denied:
        return False, str(denied)
    except TalkableAuthError as refused:
        if config.auth_scheme is None:
            return False, f"{refused}; basic and bearer are both refused"
        other = config.with_auth_scheme(config.auth_scheme.other)
        try:
            _ask_once(other, site_slug)
        except TalkableAuthError:
            return False, f"{refused}; auth_scheme {other.auth_scheme} is refused too"
        except TalkableError as error:
            return False, f"{refused}; nobody knows of auth_scheme {other.auth_scheme}, try again: {error}"
        return False, (
            f"The API key is refused with auth_scheme {config.auth_scheme} and accepted with "
            f"{other.auth_scheme}: set auth_scheme to {other.auth_scheme}"
        )
    return True, (
        f"{config.base_url} accepts the API key for site {site_slug} with auth_scheme "
        f"{config.key_scheme.current}; campaigns: {len(campaigns)}"
    )


def _ask_once(config: ClientConfig, site_slug: str) -> list[dict[str, Any]]:
    from airflow_provider_talkable.client.sync import TalkableClient

    with TalkableClient(config, RetryPolicy(max_attempts=1, throttle_patience=0)) as client:
        return client.campaigns(site_slug)


def _declared() -> dict[str, Any]:
    declared: dict[str, Any] = get_provider_info()["connection-types"][0]
    return declared
