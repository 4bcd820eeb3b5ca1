"""What is said of a request that got no proper answer, and whether it may have been read.

A refund is in doubt if and only if its request may have been read: not before there is a connection that
it can be sent on, TLS and proxies included.
"""

from __future__ import annotations

import ssl

import aiohttp

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.protocol.errors import TalkableConnectionError, TalkableProtocolError

MAX_BODY_BYTES = 1024 * 1024


def not_sent(config: ClientConfig, error: Exception) -> TalkableConnectionError:
    """No connection was made, so nobody has read the request.

    :param error: What aiohttp raised.
    """
    return TalkableConnectionError(f"{_why_not_sent(config, error)}; nothing was sent", request_sent=False)


def no_answer(config: ClientConfig, error: Exception) -> TalkableConnectionError:
    """The request went out on a connection, and no complete answer came back.

    :param error: What aiohttp raised.
    """
    if isinstance(error, TimeoutError):
        return TalkableConnectionError(
            f"No complete answer from {config.base_url} within {config.timeout:g} s"
        )
    return TalkableConnectionError(f"The connection to {config.base_url} broke ({type(error).__name__})")


class StoppedUnsent(TalkableConnectionError):
    """The request was given up before there was a connection to send it on."""

    def __init__(self) -> None:
        super().__init__("It was stopped before it was sent", request_sent=False)


def stopped(*, request_sent: bool) -> TalkableConnectionError:
    """The request was given up before its answer came."""
    return (
        TalkableConnectionError("It was stopped before the answer came") if request_sent else StoppedUnsent()
    )


def too_long(status: int) -> TalkableProtocolError:
    """No answer of Talkable's is that long."""
    return TalkableProtocolError(
        f"HTTP {status} with a body of more than {MAX_BODY_BYTES} bytes; "
        "a proxy answered in Talkable's place",
        http_status=status,
    )


def _why_not_sent(config: ClientConfig, error: Exception) -> str:
    through = f" through the proxy ({config.proxy.source})" if config.proxy else ""
    if isinstance(error, TimeoutError):
        return f"No connection to {config.base_url}{through} within {config.timeout:g} s"
    if isinstance(tls_error := _tls_error(error), ssl.SSLCertVerificationError):
        return (
            f"The certificate of {config.base_url} is not trusted ({tls_error.verify_message}); check the "
            "connection's host and ca_bundle"
        )
    if tls_error:
        return (
            f"TLS with {config.base_url}{through} failed ({tls_error.reason}); check the connection's host, "
            "schema and port"
        )
    if config.proxy:
        answered = f" (HTTP {error.status})" if isinstance(error, aiohttp.ClientHttpProxyError) else ""
        where = "the connection's proxy" if config.proxy.source == "proxy" else config.proxy.source
        return f"The proxy did not connect to {config.base_url}{answered}; check {where}"
    return f"No connection to {config.base_url}; check the connection's host and port, and the network"


def _tls_error(error: Exception) -> ssl.SSLError | None:
    """What lies under aiohttp's errors, if it is one of TLS."""
    found = (getattr(error, "certificate_error", None), getattr(error, "os_error", None), error)
    return next((each for each in found if isinstance(each, ssl.SSLError)), None)
