"""The dashboard's JSON over HTTP: what it tells, what it changes, and for whom."""

import asyncio
import json
import os
import threading

import pytest

from pointsman.v1 import admin_pb2
from server import web
from server.auth.access import Access
from server.auth.grants import Grant, Scope
from server.auth.tokens import issue
from server.dashboard.doors import Doors
from tests.server.dashboard.conftest import Browser


def arm_of(busy, name):
    request = admin_pb2.ListArmsRequest(router="main")
    return next(arm for arm in busy.admin.ListArms(request).arms if arm.id == name)


def last_sequence(busy):
    return busy.admin.GetRouter(admin_pb2.GetRouterRequest(router="main")).router.last_sequence


# --- what it tells --------------------------------------------------------------------------------------------------


def test_the_figures_are_told_within_a_moment_of_the_events(browser):
    figures = browser.get("/api/overview?router=main&range=all")
    assert figures["totals"]["sessions"] >= 60 and figures["baseline"] == {"arm": "c", "why": "the router's baseline"}
    assert browser.get("/api/overview?router=other&range=hour")["totals"]["sessions"] == 0


def test_a_decision_is_told_in_the_words_of_the_command_line(browser, capsys, monkeypatch, busy):
    from server.cli import main

    decision = browser.get("/api/decisions?router=main")["decisions"][0]
    story = browser.get(f"/api/decision?router=main&id={decision['decision_id']}")
    assert story["confirmed"] and story["explanation"][0]["title"] == f"Why {decision['arm']}?"
    monkeypatch.setenv("COLUMNS", "500")
    assert main(["explain", decision["decision_id"], "--router", "main", "--server", busy.grpc]) == 0
    said = capsys.readouterr().out
    assert all(sentence in said for section in story["explanation"] for sentence in section["sentences"])
    course = browser.get(f"/api/session?router=main&id={decision['session_id']}")
    assert len(course["explanation"]["sentences"]) >= len(course["attempts"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/overview?router=nobody", 404),
        ("/api/overview?router=main&range=ages", 400),
        ("/api/decision?router=main&id=nothing", 404),
        ("/api/session?router=main", 400),
        ("/api/nothing", 404),
    ],
)
def test_what_is_not_there_is_said(browser, path, status):
    answer = browser.ask("GET", path)
    assert answer.status == status


# --- what it changes ------------------------------------------------------------------------------------------------


def test_an_arm_is_taken_down_and_its_price_is_changed(browser, busy):
    down = {"router": "main", "arm": "a", "down_seconds": 60, "why": "<b>maintenance</b>"}
    assert browser.post("/api/act/availability", down).status == 200
    assert arm_of(busy, "a").down_why == "<b>maintenance</b>"
    assert browser.post("/api/act/availability", {**down, "down_seconds": 0}).status == 200
    prices = {"input_usd_per_million": 7.5, "output_usd_per_million": 9}
    assert browser.post("/api/act/prices", {"router": "main", "arm": {"id": "a", "prices": prices}}).status == 200
    arm = arm_of(busy, "a")
    assert arm.prices.input_usd_per_million == 7.5 and not arm.HasField("down_until")
    assert [figure.success_rate for figure in arm.figures] == [0.6]
    unknown = {"router": "main", "arm": {"id": "z", "prices": prices}}
    assert browser.post("/api/act/prices", unknown).status == 404


def test_a_repeated_change_is_made_once(browser, busy):
    change = {"router": "other", "mode": "MODE_FROZEN", "request_id": "once"}
    assert browser.post("/api/act/mode", change).status == 200
    before = last_sequence(busy)
    assert browser.post("/api/act/mode", change).status == 200
    other = {"router": "other", "mode": "MODE_LIVE", "request_id": "once"}
    assert browser.post("/api/act/mode", other).status == 409
    assert last_sequence(busy) == before
    assert browser.post("/api/act/mode", {"router": "other", "mode": "MODE_LIVE"}).status == 200


def test_a_policy_is_created_tried_and_taken_back(browser):
    made = browser.post("/api/act/create", {"router": "other", "policy": "epsilon"}).json()["policy"]
    version = {"router": "other", "policy_version": made["policy_version"]}
    shadow = browser.post("/api/act/shadow", version)
    assert shadow.status == 200 and shadow.json()["policy"]["stage"] == "POLICY_STAGE_SHADOW"
    assert browser.get("/api/shadows?router=other")["shadows"] == []
    canary = browser.post("/api/act/canary", {**version, "share": 0.5, "gate": "success >= baseline - 0.1"})
    assert canary.status == 200 and canary.json()["policy"]["gate"] == "success >= baseline - 0.1"
    stages = {policy["policy_version"]: policy for policy in browser.get("/api/router?router=other")["policies"]}
    assert stages[made["policy_version"]]["course"] == []
    assert browser.post("/api/act/roll-back", {**version, "why": "enough"}).status == 200
    stages = {policy["policy_version"]: policy for policy in browser.get("/api/router?router=other")["policies"]}
    gone = stages[made["policy_version"]]
    assert (gone["stage"], gone["verdict"]) == ("POLICY_STAGE_ROLLED_BACK", "enough")


@pytest.mark.parametrize(
    "changed",
    [
        {"Origin": "http://evil.example"},
        {"Origin": ""},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "127.0.0.1"},
        {"X_Pointsman_CSRF": "0" * 64},
        {"X_Pointsman_CSRF": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Content_Type": "text/plain"},
    ],
    ids=str,
)
def test_nothing_is_changed_by_a_page_of_somebody_else(browser, busy, changed):
    answer = browser.post("/api/act/mode", {"router": "main", "mode": "MODE_FROZEN"}, **changed)
    assert answer.status in (403, 415)
    after = busy.admin.GetRouter(admin_pb2.GetRouterRequest(router="main"))
    assert after.router.mode == admin_pb2.MODE_LIVE


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[1]", 400),
        (b"{", 400),
        (b'{"mode": "MODE_NICE"}', 400),
        (b'{"surprise": 1}', 400),
        (b"[" * 30_000, 400),
        (b'{"router": "' + b"x" * 70_000 + b'"}', 413),
        (b'{"router": "nobody", "mode": "MODE_LIVE"}', 404),
        (b'{"router": "main"}', 400),
    ],
)
def test_nonsense_is_refused(browser, body, status):
    token = browser.get("/api/state")["csrf"]
    headers = {"Content_Type": "application/json", "Origin": f"http://{browser._address}", "X_Pointsman_CSRF": token}
    assert browser.ask("POST", "/api/act/mode", body, **headers).status == status
    assert browser.ask("POST", "/api/act/nothing", b"{}", **headers).status == 404


# --- for whom -------------------------------------------------------------------------------------------------------


class Tokens:
    """Kept in memory."""

    def __init__(self) -> None:
        self.tokens = {}

    def read(self):
        return dict(self.tokens)

    read_again = read

    def give(self, *scopes: Scope, routers=None) -> str:
        grant = Grant(scopes=frozenset(scopes), routers=routers)
        secret, token = issue("x", grant, now_us=0, expires_us=None, entropy=os.urandom)
        self.tokens[token.id] = token
        return secret


@pytest.fixture
def guarded():
    """Doors that ask for tokens, before one page; its address, the tokens, and the doors."""
    from aiohttp import web as aiohttp_web

    from server.auth.access import calling

    tokens = Tokens()
    reader, admin = tokens.give(Scope.READ), tokens.give(Scope.ADMIN, routers=frozenset(("main",)))
    access = Access(tokens)
    doors = Doors(access, ["Dash.example"])

    async def page(request):
        calling.get().require(Scope.READ if request.method == "GET" else Scope.ADMIN, "main")
        return aiohttp_web.json_response({"caller": calling.get().name})

    async def state(request):
        return aiohttp_web.json_response({"csrf": doors.csrf_token(request)})

    routes = [
        aiohttp_web.get("/api/state", doors.guarded(state, known=False)),
        aiohttp_web.get("/api/page", doors.guarded(page)),
        aiohttp_web.post("/api/page", doors.guarded(page)),
        aiohttp_web.post("/api/sign-in", doors.guarded(doors.sign_in, known=False)),
        aiohttp_web.post("/api/sign-out", doors.guarded(doors.sign_out, known=False)),
    ]
    loop = asyncio.new_event_loop()
    served = loop.run_until_complete(web.serve("127.0.0.1", 0, routes))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"127.0.0.1:{served.port}", reader, admin, access, tokens
    asyncio.run_coroutine_threadsafe(served.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_who_pasted_a_token_is_known_by_a_cookie(guarded):
    address, reader, admin, _, _ = guarded
    browser = Browser(address)
    assert browser.ask("GET", "/api/page").status == 401
    assert browser.post("/api/sign-in", {"token": "pointsman_nobody_x"}).status == 401
    answer = browser.post("/api/sign-in", {"token": f"  {reader}\n"})
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie and reader not in cookie
    assert browser.get("/api/page")["caller"].startswith("token ")
    # To look is not to change.
    assert browser.post("/api/page", {}).status == 403
    acting = Browser(address)
    assert acting.post("/api/sign-in", {"token": admin}).status == 200
    assert acting.post("/api/page", {}).status == 200 and acting.ask("GET", "/api/page").status == 403
    assert browser.post("/api/sign-out", {}).status == 200
    assert browser.ask("GET", "/api/page").status == 401


def test_a_token_of_one_visitor_is_none_of_anothers(guarded):
    address, _, admin, _, _ = guarded
    mine, others = Browser(address), Browser(address)
    for browser in (mine, others):
        assert browser.post("/api/sign-in", {"token": admin}).status == 200
    stolen = others.get("/api/state")["csrf"]
    assert mine.post("/api/page", {}, X_Pointsman_CSRF=stolen).status == 403


def test_who_has_lost_a_token_has_lost_the_page(guarded):
    address, reader, _, access, tokens = guarded
    browser = Browser(address)
    assert browser.post("/api/sign-in", {"token": reader}).status == 200
    tokens.tokens.clear()
    access._take_in(tokens.read())
    assert browser.ask("GET", "/api/page").status == 401


def test_scripts_may_bring_the_token_itself(guarded):
    address, reader, _, _, _ = guarded
    assert Browser(address).ask("GET", "/api/page", Authorization=f"Bearer {reader}").status == 200
    assert Browser(address).ask("GET", "/api/page", Authorization="Bearer nonsense").status == 401


def test_a_name_that_was_configured_is_answered(guarded):
    address, reader, _, _, _ = guarded
    for host, status in (("dash.example", 200), ("DASH.example:443", 200), ("evil.example", 421)):
        answer = Browser(address).ask("GET", "/api/page", Host=host, Authorization=f"Bearer {reader}")
        assert answer.status == status, (host, json.loads(answer.body))
