"""What the clients say of a request that got no proper answer, in the same words whichever sent it."""

from __future__ import annotations

import ssl

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.protocol.errors import TalkableConnectionError, TalkableProtocolError

MAX_BODY_BYTES = 1024 * 1024


def no_connection(config: ClientConfig) -> TalkableConnectionError:
    """Nothing listens there, or the name is not known."""
    return TalkableConnectionError(
        f"No connection to {config.base_url}; check the connection's host and port, and the network",
        request_sent=False,
    )


def no_connection_in_time(config: ClientConfig) -> TalkableConnectionError:
    """Nobody answered the knock."""
    return TalkableConnectionError(
        f"No connection to {config.base_url} within {config.timeout:g} s", request_sent=False
    )


def no_proxy(config: ClientConfig) -> TalkableConnectionError:
    """The proxy is not there, or does not let the connection through."""
    return TalkableConnectionError(
        f"The proxy did not connect to {config.base_url}; check the connection's proxy", request_sent=False
    )


def tls_failed(config: ClientConfig, error: ssl.SSLError) -> TalkableConnectionError:
    """The certificate is not trusted, or the other side speaks no TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TalkableConnectionError(
            f"The certificate of {config.base_url} is not trusted ({error.verify_message}); "
            "check the connection's host and ca_bundle",
            request_sent=False,
        )
    return TalkableConnectionError(
        f"TLS with {config.base_url} failed ({error.reason}); check the connection's host, schema and port"
    )


def no_answer_in_time(config: ClientConfig) -> TalkableConnectionError:
    """The request went out, and the answer did not come, or not to its end."""
    return TalkableConnectionError(f"No complete answer from {config.base_url} within {config.timeout:g} s")


def broken(config: ClientConfig, error: Exception) -> TalkableConnectionError:
    """The connection ended before the answer did."""
    return TalkableConnectionError(f"The connection to {config.base_url} broke ({type(error).__name__})")


def too_long(status: int) -> TalkableProtocolError:
    """No answer of Talkable's is that long."""
    return TalkableProtocolError(
        f"HTTP {status} with a body of more than {MAX_BODY_BYTES} bytes; "
        "a proxy answered in Talkable's place",
        http_status=status,
    )
