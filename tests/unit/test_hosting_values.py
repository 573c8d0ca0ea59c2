"""Values about our own domains in the configuration."""

from pathlib import Path

import pytest

from stsguard.config.hosting_values import HttpsUrl, RuaList, UpdateServer
from stsguard.config.load import ConfigProblems, load
from stsguard.config.values import InetAddress, ValueRefused

URL = HttpsUrl("none")


def test_https_url() -> None:
    assert URL.read("https://ca.example:14000/dir") == "https://ca.example:14000/dir"
    assert URL.read("") is None


@pytest.mark.parametrize(
    "text",
    ["http://ca.example/dir", "ca.example", "https://", "https://a b/", "https://[", "https://a:x/", "https://ü/"],
)
def test_what_is_no_https_url(text: str) -> None:
    with pytest.raises(ValueRefused):
        URL.read(text)


def test_rua() -> None:
    uris = ["mailto:tlsrpt@example.com", "https://tlsrpt.example.com/v1"]
    assert RuaList().read(uris) == tuple(uris)
    assert RuaList().read([]) == ()


@pytest.mark.parametrize("text", ["tlsrpt@example.com", "ftp://example.com/", "mailto:a@b.example,mailto:c@d.example"])
def test_rfc8460_3_what_is_no_rua(text: str) -> None:
    with pytest.raises(ValueRefused):
        RuaList().read([text])


def test_rua_is_a_list() -> None:
    with pytest.raises(ValueRefused, match="not a list"):
        RuaList().read("mailto:a@example.com")


def test_update_server() -> None:
    assert UpdateServer().read("ns1.example.com:53") == InetAddress("ns1.example.com", 53)
    assert UpdateServer().read("") is None


@pytest.mark.parametrize("text", ["ns1.example.com", "ns1.example.com:x", ":53"])
def test_what_is_no_update_server(text: str) -> None:
    with pytest.raises(ValueRefused):
        UpdateServer().read(text)


@pytest.mark.parametrize(("name", "other"), [("tsig_name", "tsig_key_file"), ("tsig_key_file", "tsig_name")])
def test_half_a_tsig_key(tmp_path: Path, name: str, other: str) -> None:
    path = tmp_path / "stsguard.toml"
    path.write_text(f'[dns_update]\n{name} = "/key"\n' if name == "tsig_key_file" else f'[dns_update]\n{name} = "k"\n')
    with pytest.raises(ConfigProblems, match=f"no update is signed without {other}"):
        load(path)
