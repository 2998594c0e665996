"""The HTTP port: what is refused before anything is looked at, and who is cut off."""

import http.client
import json
import socket
from collections.abc import Mapping
from typing import NamedTuple

import pytest


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


@pytest.fixture
def ask(server):
    def asked(method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        connection = http.client.HTTPConnection(server.http, timeout=10)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, given)
        response = connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        connection.close()
        return answer

    return asked


def test_pages_say_what_may_be_asked_of_them(ask):
    assert ask("GET", "/healthz").body == b"serving\n"
    assert ask("HEAD", "/healthz").status == 200
    refused = ask("POST", "/healthz")
    assert refused.status == 405 and set(refused.headers["Allow"].split(",")) == {"GET", "HEAD"}
    assert ask("GET", "/assets/../../config.py").status == 404
    assert ask("GET", "/assets/%2e%2e/doors.py").status == 404


def test_the_page_allows_no_script_but_its_own_and_no_frame(ask):
    page = ask("GET", "/")
    assert page.status == 200 and page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert b"<script>" not in page.body and b"style=" not in page.body and b"http://" not in page.body


def test_a_file_that_the_browser_has_is_not_sent_again(ask):
    first = ask("GET", "/assets/vendor/d3.min.js", Accept_Encoding="gzip")
    assert first.headers["Content-Encoding"] == "gzip" and len(first.body) < 120_000
    again = ask("GET", "/assets/vendor/d3.min.js", If_None_Match=first.headers["ETag"])
    assert again.status == 304 and again.body == b""


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io", "[::1"])
def test_a_name_that_is_not_ours_is_not_answered(ask, host):
    # The page of somebody whose name was pointed here would be its own origin to the browser.
    assert ask("GET", "/api/state", Host=host).status in (400, 421)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8080", "192.0.2.7"])
def test_addresses_and_this_machine_are_ours(ask, host):
    assert ask("GET", "/api/state", Host=host).status == 200


def test_the_state_names_routers_and_is_kept_by_nobody(ask):
    state = ask("GET", "/api/state")
    assert json.loads(state.body)["routers"] == [{"id": "default", "mode": "live", "act": True}]
    assert state.headers["Cache-Control"] == "no-store"


def test_too_much_at_once_is_refused(ask, server):
    assert ask("GET", f"/{'a' * 9000}").status == 400
    assert ask("GET", "/healthz", **{f"X{i}": "y" for i in range(500)}).status == 400
    host, port = server.http.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sent:
        sent.sendall(b"nonsense\r\n\r\n")
        assert sent.recv(100).startswith(b"HTTP/1.0 400")
