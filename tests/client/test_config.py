"""Where Talkable is, from what a connection holds."""

from __future__ import annotations

import pytest

from airflow_provider_talkable import InvalidConnection
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.protocol.wire import AuthScheme
from tests.conftest import KEY


def parse(**fields: object) -> ClientConfig:
    return ClientConfig.parse(**({"api_key": KEY} | fields))


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({}, "https://www.talkable.com"),
        ({"host": " "}, "https://www.talkable.com"),
        ({"port": 443}, "https://www.talkable.com"),
        ({"host": "refer.shop.example"}, "https://refer.shop.example"),
        ({"host": "refer.shop.example", "schema": "https", "port": 8443}, "https://refer.shop.example:8443"),
        ({"host": "https://refer.shop.example:8443/"}, "https://refer.shop.example:8443"),
        ({"host": "https://refer.shop.example:8443", "port": "8443"}, "https://refer.shop.example:8443"),
        ({"host": "https://gateway.example/talkable/"}, "https://gateway.example/talkable"),
        ({"host": "https://Refer.Shop.Example", "schema": "HTTPS", "port": 0}, "https://refer.shop.example"),
        ({"host": "localhost", "schema": "http", "port": 8765}, "http://localhost:8765"),
        ({"host": "http://127.8.9.1:80"}, "http://127.8.9.1"),
        ({"host": "http://[::1]:8765"}, "http://[::1]:8765"),
        ({"host": "http://127.0.0.1", "port": 8765}, "http://127.0.0.1:8765"),
    ],
)
def test_host_schema_and_port_make_the_base_url(fields: dict[str, object], base_url: str) -> None:
    assert parse(**fields).base_url == base_url


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": "http://www.talkable.com"}, "plain http is refused"),
        ({"host": "www.talkable.com", "schema": "http"}, "plain http is refused"),
        ({"host": "http://localhost.evil.example"}, "plain http is refused"),
        ({"host": "http://127.0.0.1.evil.example"}, "plain http is refused"),
        ({"host": "http://10.0.0.1"}, "plain http is refused"),
        ({"host": "ftp://www.talkable.com"}, "^schema='ftp'"),
        ({"host": "https://a.example", "schema": "http"}, "contradicts"),
        ({"host": "https://user:secret@www.talkable.com"}, "holds a user name or password"),
        ({"host": "https://www.talkable.com/?x=1"}, "give a host name"),
        ({"host": "https://www.talkable.com/#x"}, "give a host name"),
        ({"host": "https:///x"}, "give a host name"),
        ({"host": "https://[::1"}, "is not a URL"),
        ({"host": "https://a.example:99999"}, "is not a URL"),
        ({"host": "https://a.example:1", "port": 2}, "names port 1"),
        ({"host": "tälkable.com"}, "xn--"),
        ({"host": "www.talk able.com"}, "characters"),
        ({"host": "www.talkable.com\\@evil.example"}, "user name"),
        ({"host": "https://www..talkable.invalid"}, "^host=.* is not a name that can be looked up"),
        ({"host": f"https://{'a' * 64}.talkable.invalid"}, "^host=.* is not a name that can be looked up"),
        ({"host": ".".join(["a" * 63] * 4)}, "^host=.* is not a name that can be looked up"),
        ({"host": "www.talkable.com\\"}, "^host=.* is not a name that can be looked up"),
        ({"host": "https://www.talkable.com\\api"}, "^host=.* is not a name that can be looked up"),
        ({"host": "https://www.talkable.com/a\\b"}, "give a host name"),
        ({"host": "https://www.talkable.com/%zz"}, "give a host name"),
        ({"host": "https://www.talkable.com/<a>"}, "give a host name"),
        ({"port": "many"}, "^port='many'"),
        ({"port": 65536}, "^port='65536'"),
        ({"port": -1}, "^port='-1'"),
        ({"auth_scheme": "digest"}, "^auth_scheme='digest': give 'auto', 'basic' or 'bearer'"),
        ({"timeout": 0}, "^timeout='0'"),
        ({"timeout": "-1"}, "^timeout"),
        ({"timeout": "nan"}, "^timeout"),
        ({"timeout": "inf"}, "^timeout"),
        ({"timeout": "soon"}, "^timeout"),
        ({"timeout": True}, "^timeout"),
        ({"ca_bundle": "/no/such/file.pem"}, "^ca_bundle='/no/such/file.pem'"),
        ({"ca_bundle": __file__}, "^ca_bundle='.*py': cannot be read as PEM certificates"),
    ],
)
def test_a_connection_that_cannot_work_is_refused_naming_field_and_remedy(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidConnection, match=message) as caught:
        parse(**fields)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", [None, "", "  "])
def test_a_missing_key_says_where_to_put_it(key: object) -> None:
    with pytest.raises(InvalidConnection, match=r"^API key \(password\): is empty; copy it from"):
        parse(api_key=key)


@pytest.mark.parametrize("key", ["zqzqzq zqzq", "zqzqzqzqzq:", "zqzqézqzqzq", "zqzqzq\nzqzq"])
def test_what_is_no_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidConnection, match=r"^API key \(password\): holds characters") as caught:
        parse(api_key=key)
    assert "zq" not in str(caught.value)


@pytest.mark.parametrize("key", ["z", "zqz", "zqzqzqz"])
def test_what_is_too_short_for_a_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(
        InvalidConnection, match=r"^API key \(password\): has . characters.* whole key"
    ) as caught:
        parse(api_key=key)
    assert "z" not in str(caught.value)


def test_a_line_break_after_the_key_is_dropped() -> None:
    assert parse(api_key=f"{KEY}\n") == parse()


def test_defaults() -> None:
    config = parse()
    assert config.auth_scheme is None
    assert parse(auth_scheme="auto").auth_scheme is None
    assert config.timeout == 30
    assert (config.site_slug, config.proxy) == (None, None)


def test_text_as_a_uri_carries_it() -> None:
    config = parse(auth_scheme=" Bearer ", timeout="2.5", site_slug="my-store", proxy="http://p.example:1")
    assert (config.auth_scheme, config.timeout, config.site_slug) == (AuthScheme.BEARER, 2.5, "my-store")


def test_neither_the_key_nor_a_proxys_password_is_in_the_repr() -> None:
    config = parse(proxy="http://user:hunter2@p.example:1")
    assert KEY not in repr(config)
    assert "hunter2" not in repr(config)
