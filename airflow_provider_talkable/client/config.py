"""Where Talkable is and how it is talked to, checked before the first request."""

from __future__ import annotations

import math
import re
import ssl
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from airflow_provider_talkable import __version__
from airflow_provider_talkable.client.auth import KeyScheme
from airflow_provider_talkable.client.environment import (
    Proxy,
    certificates_for,
    is_host_name,
    proxy_for,
)
from airflow_provider_talkable.client.redaction import Redaction
from airflow_provider_talkable.protocol.errors import InvalidConnection
from airflow_provider_talkable.protocol.wire import AuthScheme

DEFAULT_HOST = "https://www.talkable.com"
DEFAULT_TIMEOUT = 30.0
USER_AGENT = f"airflow-provider-talkable/{__version__}"

_AUTO = "auto"
_PRINTABLE = re.compile(r"[\x21-\x7e]+", re.ASCII)
_PATH = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*", re.ASCII)  # RFC 3986, 3.3
_SHORTEST_KEY = 8


@dataclass(frozen=True)
class ClientConfig:
    """Everything a client needs to know. Build it with :meth:`parse`, which validates.

    :param base_url: Scheme, host, port and path prefix, without a trailing slash.
    :param api_key: The Talkable API key.
    :param auth_scheme: How the key is sent; ``None``: Basic, and after a 401 Bearer.
    :param timeout: Seconds to wait for a connection, and again for an answer.
    :param site_slug: The Talkable site id of refunds that name none.
    :param certificates: The certificates to trust; ``None`` where no TLS is spoken.
    :param proxy: The proxy for every request.
    """

    base_url: str
    api_key: str = field(repr=False)
    auth_scheme: AuthScheme | None = None
    timeout: float = DEFAULT_TIMEOUT
    site_slug: str | None = None
    certificates: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    proxy: Proxy | None = None

    @classmethod
    def parse(
        cls,
        *,
        api_key: object,
        host: object = None,
        schema: object = None,
        port: object = None,
        auth_scheme: object = None,
        timeout: object = None,
        site_slug: object = None,
        ca_bundle: object = None,
        proxy: object = None,
    ) -> ClientConfig:
        """Validate loose values, as a connection holds them; ``None`` and blank text are absent.

        Where they name no proxy and no certificates, the environment does, as it does for requests.

        :param host: A host name, or a full URL.
        :param schema: ``https`` or ``http``, where the host names none. Plain http is refused
            unless the host is this machine: the key would travel in the clear.
        :param port: A port number.
        :param timeout: Seconds, as a number or as text.
        :param ca_bundle: Path of a PEM file, or of a directory of hashed certificates.
        :param proxy: URL of an ``http`` or ``https`` proxy; without a scheme it is ``http``.
        :raises InvalidConnection: naming the field or the variable, its value and the remedy. Never shows
            the key.
        """
        base_url = _base_url(_text(host), _text(schema), _text(port))
        return cls(
            base_url=base_url,
            api_key=_api_key(_text(api_key)),
            auth_scheme=_auth_scheme(_text(auth_scheme)),
            timeout=_timeout(_text(timeout)),
            site_slug=_text(site_slug) or None,
            certificates=certificates_for(base_url, _text(ca_bundle)),
            proxy=proxy_for(base_url, _text(proxy)),
        )

    def with_auth_scheme(self, auth_scheme: AuthScheme) -> ClientConfig:
        """The same with another auth scheme."""
        return replace(self, auth_scheme=auth_scheme)

    @cached_property
    def key_scheme(self) -> KeyScheme:
        """How the key is sent, which all clients of this configuration learn together."""
        return KeyScheme(self.auth_scheme)

    def authorization(self, scheme: AuthScheme) -> str:
        """The value of the Authorization header."""
        return scheme.authorization(self.api_key)

    @cached_property
    def redaction(self) -> Redaction:
        """What takes the key out of whatever is shown."""
        return Redaction(self.api_key)


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _base_url(host: str, schema: str, port: str) -> str:
    url = _split(host if "://" in host else f"{schema or 'https'}://{host or urlsplit(DEFAULT_HOST).netloc}")
    if url.username is not None or url.password is not None:
        raise InvalidConnection("host: holds a user name or password; the API key goes into password")
    if url.query or url.fragment or not url.hostname or not _PATH.fullmatch(url.path):
        raise InvalidConnection(f"host={host!r}: give a host name or a URL such as {DEFAULT_HOST}")
    if not is_host_name(url.hostname):
        raise InvalidConnection(
            f"host={host!r}: {url.hostname!r} is not a name that can be looked up: between its dots are 1 to "
            f"63 letters, digits and hyphens; give a host name or a URL such as {DEFAULT_HOST}"
        )
    if schema and schema.lower() != url.scheme:
        raise InvalidConnection(f"schema={schema!r}: contradicts host={host!r}; give only one of them")
    if url.scheme not in ("http", "https"):
        raise InvalidConnection(f"schema={url.scheme!r}: Talkable is reached over https")
    if url.scheme == "http" and not _is_this_machine(url.hostname):
        raise InvalidConnection(
            f"host={host!r}: plain http is refused, since the API key would travel in the clear; use https"
        )
    name = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    number = _port(url, port)
    return f"{url.scheme}://{name}{f':{number}' if number else ''}{url.path.rstrip('/')}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise InvalidConnection(f"host: is not a URL; give a host name or {DEFAULT_HOST}") from None
    if not _PRINTABLE.fullmatch(url):
        raise InvalidConnection(
            f"host={url!r}: has characters that no host name has; write an international name in its "
            "xn-- form"
        )
    return parts


def _port(url: SplitResult, port: str) -> int | None:
    if not port or port == "0":
        number = url.port
    elif not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidConnection(f"port={port!r}: give a number from 1 to 65535, or leave it out")
    elif url.port not in (None, int(port)):
        raise InvalidConnection(f"port={port!r}: the host names port {url.port}; give only one of them")
    else:
        number = int(port)
    return None if number == {"https": 443, "http": 80}[url.scheme] else number


def _is_this_machine(hostname: str) -> bool:
    if hostname == "localhost":
        return True
    try:
        return ip_address(hostname).is_loopback
    except ValueError:
        return False


def _api_key(key: str) -> str:
    if not key:
        raise InvalidConnection("API key (password): is empty; copy it from Talkable's dashboard")
    if not _PRINTABLE.fullmatch(key) or ":" in key:
        raise InvalidConnection(
            "API key (password): holds characters that no API key has, such as a space, a colon or a "
            "line break; copy the key again"
        )
    if len(key) < _SHORTEST_KEY:
        raise InvalidConnection(
            f"API key (password): has {len(key)} characters, and no API key has fewer than {_SHORTEST_KEY}; "
            "copy the whole key from Talkable's dashboard"
        )
    return key


def _auth_scheme(name: str) -> AuthScheme | None:
    if name.lower() in ("", _AUTO):
        return None
    try:
        return AuthScheme(name.lower())
    except ValueError:
        raise InvalidConnection(f"auth_scheme={name!r}: give 'auto', 'basic' or 'bearer'") from None


def _timeout(text: str) -> float:
    try:
        seconds = float(text or DEFAULT_TIMEOUT)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 3600:
        raise InvalidConnection(f"timeout={text!r}: give seconds, more than 0 and at most 3600")
    return seconds
