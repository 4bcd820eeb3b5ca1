"""The synchronous client, on requests."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import requests
from requests.auth import AuthBase
from tenacity import Retrying
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ReadTimeoutError

from airflow_provider_talkable.client import failures
from airflow_provider_talkable.client.config import USER_AGENT, ClientConfig
from airflow_provider_talkable.client.retries import Attempts, RetryPolicy
from airflow_provider_talkable.protocol.answers import (
    Response,
    read_campaigns,
    read_referral_update,
    read_referrals,
    read_refund,
)
from airflow_provider_talkable.protocol.errors import (
    TalkableConnectionError,
    TalkableError,
)
from airflow_provider_talkable.protocol.referrals import JsonObject, ReferralUpdate
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.protocol.wire import (
    AuthScheme,
    Request,
    campaigns_request,
    referrals_as_friend_request,
    refund_request,
    update_referral_request,
)

T = TypeVar("T")


class TalkableClient:
    """Sends requests to one Talkable host, one at a time, over a kept-alive connection.

    :param config: Where to and with which key.
    :param policy: How long a request is worth trying.
    :param sleep: What waits between attempts; takes seconds.
    """

    def __init__(
        self,
        config: ClientConfig,
        policy: RetryPolicy | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.config = config
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": USER_AGENT, "Accept": "application/json"})

    def __enter__(self) -> TalkableClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def refund(self, refund: Refund) -> RefundResult:
        """Send one refund and say what became of it; an error becomes its outcome.

        ``POST /api/v2/origins/<origin_slug>/refund`` in Talkable's API v2 documentation. A full
        refund is sent again after a failure that leaves open whether Talkable acted, since
        Talkable refuses the second one; a partial one is not.
        """
        request = refund_request(refund)
        attempts = Attempts(self._policy, request)
        try:
            response, answer = self._send(request, read_refund, attempts)
        except TalkableError as error:
            return RefundResult.from_error(refund, error, attempts=attempts.count)
        return RefundResult.from_answer(refund, answer, http_status=response.status, attempts=attempts.count)

    def update_referral(self, update: ReferralUpdate) -> JsonObject | None:
        """Set the status of an origin's referral: ``PUT /api/v2/origins/<origin_slug>/referral``.

        :return: The referral; ``None`` where the origin belongs to none.
        :raises TalkableReferralFinal: if it has the opposite final status.
        :raises TalkableError: the one that fits what else went wrong.
        """
        return self._ask(update_referral_request(update), partial(read_referral_update, asked=update.status))

    def referrals_as_friend(self, site_slug: str, person: str) -> list[JsonObject]:
        """The referrals in which a person is the friend:
        ``GET /api/v2/people/<person_slug>/referrals_as_friend``; changes nothing.

        :param person: The friend's e-mail address, phone number (E.164), customer id or user name.
        :raises TalkablePersonNotFound: if Talkable does not know that person.
        :raises TalkableError: the one that fits what else went wrong.
        """
        return self._ask(referrals_as_friend_request(site_slug, person), read_referrals)

    def campaigns(self, site_slug: str) -> list[JsonObject]:
        """The site's campaigns, from ``GET /api/v2/campaigns``; changes nothing.

        :raises TalkableError: the one that fits what went wrong.
        """
        return self._ask(campaigns_request(site_slug), read_campaigns)

    def _ask(self, request: Request, read: Callable[[Response], T]) -> T:
        return self._send(request, read, Attempts(self._policy, request))[1]

    def _send(
        self, request: Request, read: Callable[[Response], T], attempts: Attempts
    ) -> tuple[Response, T]:
        def attempt() -> tuple[Response, T]:
            attempts.count += 1
            response = self._exchange(request)
            return response, read(response)

        return Retrying(sleep=self._sleep, **attempts.for_tenacity)(attempt)

    def _exchange(self, request: Request) -> Response:
        keys = self.config.key_scheme
        scheme = keys.current
        response = self._exchange_by(scheme, request)
        if other := keys.other_after(response, scheme):
            response = self._exchange_by(other, request)
            keys.learn(response, other)
        return response

    def _exchange_by(self, scheme: AuthScheme, request: Request) -> Response:
        try:
            with self._session.request(
                request.method,
                self.config.base_url + request.path,
                data=request.body,
                headers={"Content-Type": "application/json"} if request.body else None,
                timeout=self.config.timeout,
                # As auth and not as a header: a .netrc on the worker would replace a header.
                auth=_Authorization(self.config.authorization(scheme)),
                # Per request: the environment's CA bundle and proxies go before the session's.
                verify=self.config.ca_bundle or True,
                proxies={"all": self.config.proxy} if self.config.proxy else None,
                allow_redirects=False,
                stream=True,
            ) as answer:
                body = self.config.without_key(self._read_body(answer))
                return Response.received(
                    answer.status_code, body, answer.headers, base_url=self.config.base_url
                )
        except requests.RequestException as error:
            raise self._connection_error(error) from None

    def _read_body(self, answer: requests.Response) -> bytes:
        """Read the body to its end, but no further than 1 MiB, and no longer than the timeout."""
        deadline = time.monotonic() + self.config.timeout
        body = bytearray()
        try:
            # Not by iter_content: that waits for a chunk to fill, however slowly it drips in.
            while chunk := answer.raw.read1(64 * 1024, decode_content=True):
                body += chunk
                if len(body) > failures.MAX_BODY_BYTES:
                    raise failures.too_long(answer.status_code)
                if time.monotonic() > deadline:
                    raise failures.no_answer_in_time(self.config)
        except ReadTimeoutError:
            raise failures.no_answer_in_time(self.config) from None
        except HTTPError as error:
            raise failures.broken(self.config, error) from None
        return bytes(body)

    def _connection_error(self, error: requests.RequestException) -> TalkableConnectionError:
        if isinstance(error, requests.ConnectTimeout):
            return failures.no_connection_in_time(self.config)
        if isinstance(error, requests.Timeout):
            return failures.no_answer_in_time(self.config)
        if isinstance(error, requests.exceptions.ProxyError):
            return failures.no_proxy(self.config)
        reason = _reason(error)
        if isinstance(reason, ssl.SSLError):
            return failures.tls_failed(self.config, reason)
        if isinstance(reason, NewConnectionError):
            return failures.no_connection(self.config)
        return failures.broken(self.config, error)


class _Authorization(AuthBase):
    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


def _reason(error: requests.RequestException) -> object:
    """What lies under the layers that requests and urllib3 wrap a failure in."""
    cause = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    if isinstance(cause, Exception) and cause.args and isinstance(cause.args[0], ssl.SSLError):
        cause = cause.args[0]
    return cause
