"""The proxy and the certificates that a connection goes by: its own fields first, then the environment.

The environment is read as requests reads it, so that a worker set up for other hooks needs nothing more.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from airflow_provider_talkable.protocol.errors import InvalidConnection

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)
_LONGEST_NAME = 253
# What OpenSSL looks certificates up by in a directory.
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+", re.ASCII)
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and where it was named.

    :param url: Its URL, with user name and password where it has them.
    :param source: The connection's field, or the environment variable.
    """

    url: str = field(repr=False)
    source: str


def proxy_for(base_url: str, given: str) -> Proxy | None:
    """The proxy that requests go through, if there is one.

    :param base_url: Where Talkable is. Plain http stays on this machine and goes through no proxy, which
        would read the API key.
    :param given: The connection's ``proxy``; blank: the environment's ``HTTPS_PROXY`` or ``ALL_PROXY``,
        less what ``NO_PROXY`` names.
    :raises InvalidConnection: naming the field or the variable, if it is no proxy that can be used.
    """
    if base_url.startswith("http:"):
        if given:
            raise InvalidConnection(
                f"proxy={_shown(given)!r}: plain http goes through no proxy, since the API key would travel "
                "in the clear; leave proxy empty, or use https"
            )
        return None
    source, value = ("proxy", given) if given else _proxy_of_environment(base_url)
    return Proxy(_proxy_url(source, value), source) if value else None


def certificates_for(base_url: str, given: str) -> ssl.SSLContext | None:
    """The certificates to trust; ``None`` where no TLS is spoken.

    :param given: The connection's ``ca_bundle``, a PEM file or a directory of hashed certificates; blank:
        the environment's ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE``, or else what certifi ships.
    :raises InvalidConnection: naming the field or the variable, if they cannot be read.
    """
    if base_url.startswith("http:"):
        return None
    if given:
        return _certificates("ca_bundle", given)
    for name in _BUNDLES:
        if path := os.environ.get(name):
            return _certificates(name, path)
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    return _certificates("the default bundle", DEFAULT_CA_BUNDLE_PATH)


def is_host_name(name: str) -> bool:
    """Whether a name can be looked up: an IP address, or labels of 1 to 63 letters, digits and hyphens."""
    try:
        ip_address(name)
    except ValueError:
        labels = name.removesuffix(".").split(".")
        return len(name) <= _LONGEST_NAME and all(map(_LABEL.fullmatch, labels))
    return True


def _proxy_of_environment(base_url: str) -> tuple[str, str]:
    """The variable and what it holds; for a system's settings outside of the environment, their name."""
    # Imported here: the hook's module knows this one, and DAG files import the hook.
    from requests.utils import get_environ_proxies, select_proxy

    value = (select_proxy(base_url, get_environ_proxies(base_url)) or "").strip()
    names = (name for name in os.environ if name.lower() in ("https_proxy", "all_proxy"))
    source = next((name for name in names if os.environ[name].strip() == value), "the system's proxy")
    return source, value


def _proxy_url(source: str, value: str) -> str:
    url = value if "://" in value else f"http://{value.removeprefix('//')}"
    refused = f"{source}={_shown(value)!r}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidConnection(
            f"{refused}: is not a URL of a proxy; give one such as http://proxy.example.com:3128"
        ) from None
    if parts.scheme not in ("http", "https"):
        raise InvalidConnection(
            f"{refused}: a {parts.scheme} proxy cannot be used; give an http or https proxy, or leave it out"
        )
    if not parts.hostname or not is_host_name(parts.hostname) or port == 0:
        raise InvalidConnection(
            f"{refused}: names no host that can be looked up; give a URL such as "
            "http://proxy.example.com:3128"
        )
    return f"{parts.scheme}://{parts.netloc}"


def _shown(url: str) -> str:
    """A proxy's URL without the user name and password that may be in it."""
    before, at, host = url.rpartition("@")
    scheme, slashes, _ = before.partition("://")
    return f"{scheme}{slashes}***@{host}" if slashes else f"***@{host}" if at else url


def _certificates(source: str, path: str) -> ssl.SSLContext:
    refused = f"{source}={path!r}"
    if not Path(path).exists():
        raise InvalidConnection(f"{refused}: there is no such file on this worker")
    if Path(path).is_dir():
        if not any(_HASHED.fullmatch(entry.name) for entry in Path(path).iterdir()):
            raise InvalidConnection(
                f"{refused}: has no certificates that OpenSSL finds there; run openssl rehash on it, or give "
                "a PEM file"
            )
        return ssl.create_default_context(capath=path)
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidConnection(
            f"{refused}: cannot be read as PEM certificates ({reason}); give a file that begins with "
            "-----BEGIN CERTIFICATE-----"
        ) from None
