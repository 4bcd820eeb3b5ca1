"""Where Talkable is and how it is talked to, checked before the first request."""

from __future__ import annotations

import math
import re
import ssl
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

from airflow_provider_talkable import __version__
from airflow_provider_talkable.client.auth import KeyScheme
from airflow_provider_talkable.protocol.errors import InvalidConnection
from airflow_provider_talkable.protocol.wire import AuthScheme

DEFAULT_HOST = "https://www.talkable.com"
DEFAULT_TIMEOUT = 30.0
USER_AGENT = f"airflow-provider-talkable/{__version__}"

_AUTO = "auto"
_PRINTABLE = re.compile(r"[\x21-\x7e]+", re.ASCII)


@dataclass(frozen=True)
class ClientConfig:
    """Everything a client needs to know. Build it with :meth:`parse`, which validates.

    :param base_url: Scheme, host, port and path prefix, without a trailing slash.
    :param api_key: The Talkable API key.
    :param auth_scheme: How the key is sent; ``None``: Basic, and after a 401 Bearer.
    :param timeout: Seconds to wait for a connection, and again for an answer.
    :param site_slug: The Talkable site id of refunds that name none.
    :param ca_bundle: Path of a PEM file or a directory with certificates to trust.
    :param proxy: URL of a proxy for every request.
    """

    base_url: str
    api_key: str = field(repr=False)
    auth_scheme: AuthScheme | None = None
    timeout: float = DEFAULT_TIMEOUT
    site_slug: str | None = None
    ca_bundle: str | None = None
    proxy: str | None = field(default=None, repr=False)

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

        :param host: A host name, or a full URL.
        :param schema: ``https`` or ``http``, where the host names none. Plain http is refused
            unless the host is this machine: the key would travel in the clear.
        :param port: A port number.
        :param timeout: Seconds, as a number or as text.
        :raises InvalidConnection: naming the field and the remedy. Never shows the key.
        """
        return cls(
            base_url=_base_url(_text(host), _text(schema), _text(port)),
            api_key=_api_key(_text(api_key)),
            auth_scheme=_auth_scheme(_text(auth_scheme)),
            timeout=_timeout(_text(timeout)),
            site_slug=_text(site_slug) or None,
            ca_bundle=_ca_bundle(_text(ca_bundle)),
            proxy=_proxy(_text(proxy)),
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

    def without_key(self, body: bytes) -> bytes:
        """An answer's body without the key: some proxies' error pages quote the request's headers."""
        for secret in self._secrets:
            body = body.replace(secret, b"***")
        return body

    @cached_property
    def _secrets(self) -> tuple[bytes, ...]:
        basic = self.authorization(AuthScheme.BASIC)
        forms = (basic.split(" ", 1)[1], quote(self.api_key, safe=""), self.api_key)
        return tuple(form.encode("ascii") for form in forms)


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _base_url(host: str, schema: str, port: str) -> str:
    url = _split(host if "://" in host else f"{schema or 'https'}://{host or urlsplit(DEFAULT_HOST).netloc}")
    if url.username is not None or url.password is not None:
        raise InvalidConnection("host: holds a user name or password; the API key goes into password")
    if url.query or url.fragment or not url.hostname:
        raise InvalidConnection(f"host={host!r}: give a host name or a URL such as {DEFAULT_HOST}")
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
        raise InvalidConnection(f"host: is no URL; give a host name or {DEFAULT_HOST}") from None
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


def _ca_bundle(path: str) -> str | None:
    if path and not Path(path).exists():
        raise InvalidConnection(f"ca_bundle={path!r}: there is no such file on this worker")
    if path and Path(path).is_file():
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:
            raise InvalidConnection(
                f"ca_bundle={path!r}: cannot be read as PEM certificates ({error}); give a file that begins "
                "with -----BEGIN CERTIFICATE-----"
            ) from None
    return path or None


def _proxy(url: str) -> str | None:
    if url and not re.match(r"https?://[^\s/]", url):
        raise InvalidConnection("proxy: give a URL such as http://proxy.example.com:3128")
    return url or None
