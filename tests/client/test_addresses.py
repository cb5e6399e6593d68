"""What a client is made with: addresses, keys and network settings, and that none of their secrets is shown."""

import base64

import httpx
import pytest

from service.client import AsyncClient, Client, NetworkSettingsError, Retry, TransportError
from service.client.calls import checked_url


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("key", ["cl\u00e9-0123456789abcdef", "0123456789abcdef\n", "0123456789 abcdef"])
def test_a_key_that_no_header_can_carry_is_told_at_once_and_not_shown(kind, key):
    with pytest.raises(ValueError, match="a header cannot carry") as caught:
        kind("http://127.0.0.1:9", api_key=key)
    assert "0123456789" not in str(caught.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://127.0.0.1",
        "http://",
        "http://:8000",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1:8000/?key=secret",
        "http://127.0.0.1:8000/#secret",
        "http://user:secret/word@127.0.0.1",
        "http://xn--a",
        "http://a..b",
        f"http://{300 * 'a'}",
        "http://caf\udce9",
        "http://127.0.0.1/\0",
    ],
)
def test_what_is_no_address_is_told_at_once_and_not_shown(kind, url):
    with pytest.raises(ValueError, match="must be http:// or https:// followed by a host") as caught:
        kind(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://[::1]:8000", "HTTPS://b\u00fccher.example/below/", "http://user:word@host"])
def test_what_is_an_address(url):
    assert checked_url(url).host
    with Client(url) as client:
        assert isinstance(client, Client)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("ALL_PROXY", "socks://user:secret@127.0.0.1:9"),
        ("HTTP_PROXY", "http://user:secret/word@proxy"),
        ("NO_PROXY", "localhost,[::1]"),
        ("SSL_CERT_FILE", "/no/such/file"),
    ],
)
def test_network_settings_that_cannot_be_used_are_named(kind, name, value, monkeypatch):
    for each in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(each, raising=False)
        monkeypatch.delenv(each.lower(), raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(NetworkSettingsError, match=name) as caught:
        kind("http://127.0.0.1:9")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:8080")
    monkeypatch.setenv("ALL_PROXY", "")
    monkeypatch.setenv("NO_PROXY", "localhost,::1")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    kind("http://127.0.0.1:9")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.Response(502, text="<html>bad gateway</html>"),
        httpx.Response(200, text="<html>somebody else</html>"),
    ],
)
def test_a_password_in_the_address_is_sent_and_not_shown(answer):
    sent = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["authorization"])
        if isinstance(answer, Exception):
            raise answer
        return answer

    url = "http://jane:secret@host/below"
    with (
        Client(url, retry=Retry(tries=1), transport=httpx.MockTransport(respond)) as client,
        pytest.raises(TransportError, match="http://host/below") as caught,
    ):
        client.models()
    assert sent == [f"Basic {base64.b64encode(b'jane:secret').decode()}"]
    assert "jane" not in str(caught.value)
    assert "secret" not in str(caught.value)
