"""The proxy and the certificates: the connection's fields, then the environment as requests reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_talkable import InvalidConnection, Outcome, Refund
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.environment import Proxy, is_host_name
from tests.conftest import KEY, Clients
from tests.network import OK, Line, Peer, answering, connect_proxy, server_context, unused_address

FULL = Refund.parse("A", site_slug="my-store")
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no proxy and no certificates."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def parse(**fields: object) -> ClientConfig:
    return ClientConfig.parse(**({"api_key": KEY} | fields))


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p.example:3128"}, ("http://p.example:3128", "HTTPS_PROXY")),
        ({"https_proxy": "http://p.example:3128"}, ("http://p.example:3128", "https_proxy")),
        ({"HTTPS_PROXY": "127.0.0.1:3128"}, ("http://127.0.0.1:3128", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "//127.0.0.1:3128"}, ("http://127.0.0.1:3128", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "user:pa:ss@p.example:1"}, ("http://user:pa:ss@p.example:1", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": " http://p.example:1/ "}, ("http://p.example:1", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "https://[::1]:3128"}, ("https://[::1]:3128", "HTTPS_PROXY")),
        ({"ALL_PROXY": "http://p.example:1"}, ("http://p.example:1", "ALL_PROXY")),
        (
            {"ALL_PROXY": "socks5://a.example:1", "HTTPS_PROXY": "http://p.example:1"},
            ("http://p.example:1", "HTTPS_PROXY"),
        ),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTP_PROXY": "http://p.example:1"}, None),
        ({"HTTPS_PROXY": "http://p.example:1", "NO_PROXY": "talkable.com"}, None),
        ({"HTTPS_PROXY": "http://p.example:1", "no_proxy": "*"}, None),
        ({"ALL_PROXY": "socks5://p.example:1", "NO_PROXY": ".talkable.com"}, None),
        (
            {"HTTPS_PROXY": "http://p.example:1", "NO_PROXY": "localhost,127.0.0.0/8"},
            ("http://p.example:1", "HTTPS_PROXY"),
        ),
    ],
)
def test_the_environments_proxy(
    environment: pytest.MonkeyPatch, variables: dict[str, str], proxy: tuple[str, str] | None
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert parse().proxy == (proxy and Proxy(*proxy))


def test_the_field_goes_before_the_environment(environment: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY"):
        environment.setenv(name, "socks5://elsewhere.example:1")
    environment.setenv("NO_PROXY", "*")
    assert parse(proxy="p.example:3128").proxy == Proxy("http://p.example:3128", "proxy")


PROXIES = [
    ("socks5://p.example:1080", "a socks5 proxy cannot be used; give an http or https proxy"),
    ("socks5h://p.example:1080", "a socks5h proxy cannot be used"),
    ("ftp://p.example", "a ftp proxy cannot be used"),
    ("http://p.example:99999", "is not a URL of a proxy; give one such as http"),
    ("http://p.example:port", "is not a URL of a proxy"),
    ("http://p.example:0", "names no host"),
    ("http://", "names no host"),
    ("http://[::1", "is not a URL of a proxy"),
    ("http://p..example:1", "names no host"),
    (f"http://{'p' * 64}.example:1", "names no host"),
    ("http://p\\example:1", "names no host"),
    ("http://p example:1", "names no host"),
    ("http://pröxy.example:1", "names no host"),
]


@pytest.mark.parametrize("source", ["proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize(("url", "message"), PROXIES)
def test_a_proxy_that_cannot_be_used_is_refused_with_its_source(
    environment: pytest.MonkeyPatch, source: str, url: str, message: str
) -> None:
    fields = {"proxy": url} if source == "proxy" else {}
    if not fields:
        environment.setenv(source, url)
    with pytest.raises(InvalidConnection, match=message) as caught:
        parse(**fields)
    assert str(caught.value).startswith(f"{source}={url!r}: ")


def test_a_proxys_password_is_not_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", "socks5://user:hunter2@p.example:1")
    with pytest.raises(InvalidConnection, match=r"^HTTPS_PROXY='socks5://\*\*\*@p.example:1'"):
        parse()
    with pytest.raises(InvalidConnection, match=r"^proxy='\*\*\*@p.example:x'"):
        parse(proxy="user:hunter2@p.example:x")


def test_plain_http_stays_on_this_machine(environment: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        environment.setenv(name, "http://p.example:1")
    assert parse(host="http://127.0.0.1:8765").proxy is None
    with pytest.raises(
        InvalidConnection, match=r"^proxy='http://p.example:1': plain http .* leave proxy empty"
    ):
        parse(host="http://127.0.0.1:8765", proxy="http://p.example:1")


def test_a_good_proxy_in_the_field_and_a_dead_one_in_the_environment(
    environment: pytest.MonkeyPatch, clients: Clients, certificate: tuple[Path, Path]
) -> None:
    environment.setenv("HTTPS_PROXY", f"http://{unused_address()}")

    def talkable(line: Line) -> None:
        line.wrap(server_context(certificate))
        answering(OK)(line)

    with Peer(talkable) as server, Peer(connect_proxy) as proxy:
        client = clients(f"https://{server.address}", proxy=proxy.address, ca_bundle=certificate[0])
        assert client.refund(FULL).outcome is Outcome.REFUNDED
        assert len(proxy.requests) == 1


@pytest.mark.parametrize("source", ["ca_bundle", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pem", None, "there is no such file on this worker"),
        ("empty.pem", "", "cannot be read as PEM certificates"),
        ("text.pem", "hello", "cannot be read as PEM certificates"),
        ("der.pem", "\x30\x82", "cannot be read as PEM certificates"),
        ("key", "key", "cannot be read as PEM certificates"),
        ("folder", "folder", "has no certificates that OpenSSL finds there; run openssl rehash"),
    ],
)
def test_certificates_that_cannot_be_read_are_refused_with_their_source(
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    certificate: tuple[Path, Path],
    source: str,
    name: str,
    content: str | None,
    message: str,
) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
        (path / "cert.pem").write_bytes(certificate[0].read_bytes())
    elif content == "key":
        path.write_bytes(certificate[1].read_bytes())
    elif content is not None:
        path.write_text(content)
    fields = {"ca_bundle": path} if source == "ca_bundle" else {}
    if not fields:
        environment.setenv(source, str(path))
    with pytest.raises(InvalidConnection, match=message) as caught:
        parse(**fields)
    assert str(caught.value).startswith(f"{source}={str(path)!r}: ")
    # Where no TLS is spoken nobody asks for them.
    assert parse(host="http://127.0.0.1:8765", **fields).certificates is None


def test_the_connections_certificates_go_before_the_environments(
    environment: pytest.MonkeyPatch, clients: Clients, certificate: tuple[Path, Path]
) -> None:
    def talkable(line: Line) -> None:
        line.wrap(server_context(certificate))
        answering(OK)(line)

    with Peer(talkable) as server:
        environment.setenv("REQUESTS_CA_BUNDLE", "/no/such/file.pem")
        client = clients(f"https://{server.address}", ca_bundle=certificate[0])
        assert client.refund(FULL).outcome is Outcome.REFUNDED
        for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
            environment.delenv("REQUESTS_CA_BUNDLE", raising=False)
            environment.setenv(name, str(certificate[0]))
            assert clients(f"https://{server.address}").refund(FULL).outcome is Outcome.REFUNDED


def test_a_folder_of_hashed_certificates(
    clients: Clients, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    import subprocess

    digest = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", certificate[0]],
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / f"{digest.stdout.strip()}.0").write_bytes(certificate[0].read_bytes())

    def talkable(line: Line) -> None:
        line.wrap(server_context(certificate))
        answering(OK)(line)

    with Peer(talkable) as server:
        client = clients(f"https://{server.address}", ca_bundle=tmp_path)
        assert client.refund(FULL).outcome is Outcome.REFUNDED


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("www.talkable.com", True),
        ("www.talkable.com.", True),
        ("talkable", True),
        ("my_host.internal", True),
        ("xn--tlkable-5wa.com", True),
        ("a" * 63, True),
        ("127.0.0.1", True),
        ("::1", True),
        ("a" * 64, False),
        ("www..talkable.com", False),
        (".talkable.com", False),
        ("www.talkable.com..", False),
        ("-a.com", False),
        ("a-.com", False),
        ("a b.com", False),
        ("a\\b.com", False),
        (".".join(["a" * 63] * 4), False),
        ("", False),
    ],
)
def test_what_can_be_looked_up(name: str, is_one: bool) -> None:
    assert is_host_name(name) is is_one
