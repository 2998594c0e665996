"""The page in a browser: every view and every action, narrow and wide, in light and dark, with nothing and with much.

Whatever a test does, the browser's console stays empty: a script or style that the page's policy forbids is told there.
"""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from tests.server.conftest import Tokens
from tests.server.dashboard.conftest import TWO_ROUTERS, live

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("POINTSMAN_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

VIEWS = ("overview", "decisions", "sessions", "arms", "policies", "log", "answers")
HOSTILE = ("<img src=x onerror=alert(1)>", "\u202eevil\u202d \u2066x", "x" * 256, "'\"><script>alert(1)</script>&amp;")
READABLE = Path(__file__).with_name("readable.js").read_text()
LOADED = "!!document.querySelector('main h1') && !document.querySelector('main').innerText.includes('Loading…')"


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no chromium here; name one with POINTSMAN_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def strange(serving, tmp_path_factory):
    """A server whose arms, sessions and router have names that a careless page would obey."""
    server = serving(tmp_path_factory.mktemp("strange") / "data")
    admin, router = server.admin, HOSTILE[0]
    admin.CreateRouter(admin_pb2.CreateRouterRequest(router=router), timeout=60)
    for arm in HOSTILE:
        prices = admin_pb2.Prices(input_usd_per_million=1)
        figures = [admin_pb2.PriorFigure(success_rate=0.5, cost_usd_mean=0.5)]
        put = admin_pb2.Arm(id=printable(arm), provider=printable(arm), prices=prices, figures=figures)
        admin.PutArm(admin_pb2.PutArmRequest(router=router, arm=put), timeout=60)
    live(server.routing, router, 20, lambda i: f"{printable(HOSTILE[i % 4])[:200]}{i}")
    down = admin_pb2.SetAvailabilityRequest(router=router, arm=HOSTILE[0], down_seconds=900, why=HOSTILE[3])
    admin.SetAvailability(down)
    return server


def printable(name: str) -> str:
    """What ids may hold: no controls."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "", name)


class Pages:
    """Opens pages, and keeps what the browser complains of."""

    def __init__(self, chromium, address: str) -> None:
        self._chromium = chromium
        self._address = address
        self._contexts = []
        self.complaints: list[str] = []

    def open(self, place: str = "", width: int = 1280, scheme: str = "light"):
        context = self._chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"a script ran: {dialog.message}"))
        self.go(page, place)
        return page

    def go(self, page, place: str) -> None:
        page.goto(f"http://{self._address}/#/{place}")
        until(page, LOADED)

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def pages(chromium, busy):
    opened = Pages(chromium, busy.http)
    yield opened
    opened.close()
    assert opened.complaints == []


@pytest.fixture
def strange_pages(chromium, strange):
    opened = Pages(chromium, strange.http)
    yield opened
    opened.close()
    assert opened.complaints == []


def require_sound(page, what: str) -> None:
    """Nothing wider than the window, faint, or without a name."""
    assert page.evaluate(READABLE) == {"wide": 0, "faint": [], "unnamed": [], "twice": []}, what


def until(page, expression: str) -> None:
    """Waits until it holds. Playwright's own way needs what the page's policy forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(30)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_every_view_is_readable(pages, width, scheme):
    page = pages.open("overview?router=main&range=all", width, scheme)
    for view in VIEWS:
        pages.go(page, f"{view}?router=main&range=all")
        assert page.get_by_role("link", name=re.compile(view, re.I)).first.is_visible()
        require_sound(page, f"{view} at {width}")
    page.evaluate("location.hash = '#/decisions?router=main'")
    page.locator("tbody a").first.click()
    page.get_by_role("heading", name=re.compile("^Why ")).wait_for()
    page.get_by_text("confirmed from the log").wait_for()
    require_sound(page, f"a decision at {width}")


def test_the_overview_says_what_the_sessions_came_to(pages):
    page = pages.open("overview?router=main&range=all")
    page.get_by_text("against always using").wait_for()
    page.get_by_role("link", name=re.compile(r"Sessions \d+ \d+ open")).wait_for()
    assert page.locator(".tile", has_text="Resolved").inner_text().count("%") >= 1
    for title in ("Success against cost", "Where sessions go", "Arms over time", "Is it learning?", "Dollars"):
        page.get_by_role("heading", name=title, exact=True).wait_for()
    # Each picture has its numbers as a table.
    details = page.locator("details.data").first
    details.locator("summary").click()
    assert "Pointsman" in details.locator("table").inner_text()
    page.get_by_label("against always using").select_option("b")
    page.get_by_role("button", name="10 min").click()
    page.wait_for_url("**range=minutes")


def test_a_router_without_sessions_says_how_to_begin(pages):
    page = pages.open("overview?router=other")
    page.get_by_text("No sessions yet").wait_for()
    for view in VIEWS:
        pages.go(page, f"{view}?router=other")
        require_sound(page, f"{view} of nothing")


def test_one_session_is_enough_for_every_view(chromium, serving, tmp_path):
    server = serving(tmp_path / "data")
    server.routing.Select(pb.SelectRequest(session_id="lonely"))
    pages = Pages(chromium, server.http)
    page = pages.open("overview?router=default&range=minutes", 390)
    page.locator(".tile", has_text="1 open").wait_for()
    for view in VIEWS:
        pages.go(page, f"{view}?router=default")
        require_sound(page, f"{view} of one session")
    # The page keeps up by itself.
    pages.go(page, "sessions?router=default")
    server.routing.Select(pb.SelectRequest(session_id="not any more"))
    page.get_by_text("not any more").wait_for()
    pages.close()
    server.stop()
    assert pages.complaints == []


def test_names_are_text_whatever_they_say(strange_pages, strange):
    page = strange_pages.open("overview", 390)
    for view in VIEWS:
        page.evaluate(f"location.hash = '#/{view}?' + new URLSearchParams({{router: {HOSTILE[0]!r}, range: 'all'}})")
        until(page, f"!!document.querySelector('nav [aria-current]')?.href.includes('#/{view}')")
        until(page, LOADED)
        require_sound(page, f"{view} of hostile names")
    assert page.locator("main img, main script").count() == 0
    page.evaluate("location.hash = '#/decisions'")
    page.locator("tbody a").first.click()
    page.get_by_role("heading", name=re.compile("^Why ")).wait_for()
    require_sound(page, "a decision of hostile names")


def test_ids_are_found_and_explained(pages):
    page = pages.open("decisions?router=main")
    page.get_by_label("Find a decision or session by its id").fill("session-1")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Session session-1").wait_for()
    assert page.get_by_text("it was found wrong").count() >= 1
    assert page.get_by_role("heading", name=re.compile("^Why ")).count() == 2
    pages.go(page, "decisions?router=main")
    page.get_by_label("Find a decision or session by its id").fill("nothing")
    page.keyboard.press("Enter")
    page.get_by_text("has the id nothing").wait_for()
    page.get_by_label("Reason").select_option(label="escalated")
    rows = "[...document.querySelectorAll('tbody tr')]"
    until(page, f"{rows}.every((row) => row.innerText.includes('after a failure'))")


def test_an_unknown_id_is_said_not_to_be_there(chromium, busy):
    pages = Pages(chromium, busy.http)
    page = pages.open("log?router=main")
    page.evaluate("location.hash = '#/decision?router=main&session=nothing'")
    page.get_by_text("Not there").wait_for()
    pages.close()
    assert all("404" in complaint for complaint in pages.complaints)


def test_the_keyboard_reaches_everything(pages):
    page = pages.open("arms?router=main")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"))
    assert {"Overview", "Decisions", "Take down…", "Change price…", "Dark colours"} <= seen
    page.get_by_role("button", name="Take down…").first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")


def test_colours_stay_as_they_were_chosen(pages):
    page = pages.open("log?router=main")
    page.get_by_role("button", name="Dark colours").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    page.get_by_role("button", name="Light colours").wait_for()
    require_sound(page, "the log in dark")


def act(page, button: str, yes: str, **fields: str) -> str:
    """Presses a button, fills in what its dialog asks for and confirms; what the dialog said."""
    page.get_by_role("button", name=button).first.click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    require_sound(page, button)
    for label, value in fields.items():
        field = dialog.get_by_label(label.replace("_", " "))
        if field.evaluate("(e) => e.tagName") == "SELECT":
            field.select_option(label=value)
        else:
            field.fill(value)
    said = dialog.inner_text()
    dialog.get_by_role("button", name=yes, exact=True).click()
    dialog.wait_for(state="detached")
    return said


def test_arms_are_taken_down_and_up_and_change_price(pages, busy):
    def arm():
        request = admin_pb2.ListArmsRequest(router="main")
        return next(arm for arm in busy.admin.ListArms(request).arms if arm.id == "a")

    page = pages.open("arms?router=main")
    said = act(page, "Take down…", "Take down", For_how_long="10 minutes", Why="<i>late</i>")
    assert "no session goes to it" in said and arm().down_why == "<i>late</i>"
    page.get_by_text("<i>late</i>").wait_for()
    act(page, "Bring up…", "Bring up")
    assert not arm().HasField("down_until")
    act(page, "Change price…", "Change price", Output="12.5", Cached_input="0.5")
    assert (arm().prices.output_usd_per_million, arm().prices.cached_usd_per_million) == (12.5, 0.5)
    page.get_by_text("$12.5 out").wait_for()


def test_policies_are_tried_and_taken_back_and_modes_are_set(pages, busy):
    def router():
        return busy.admin.GetRouter(admin_pb2.GetRouterRequest(router="other")).router

    page = pages.open("policies?router=other")
    act(page, "New policy…", "Create", Name="linucb")
    page.get_by_role("heading", name="linucb").wait_for()
    made = page.locator(".card", has=page.get_by_role("heading", name="linucb"))
    made.get_by_role("button", name="Put in shadow…").click()
    page.get_by_role("dialog").get_by_role("button", name="Start shadow").click()
    made.get_by_role("button", name="End shadow…").wait_for()
    made.get_by_role("button", name="Start canary…").click()
    dialog = page.get_by_role("dialog")
    # What the server refuses is said, and nothing is lost of what was typed.
    dialog.get_by_label("Gate").fill("success > everything")
    dialog.get_by_role("button", name="Start canary").click()
    dialog.get_by_text("Nothing was changed").wait_for()
    assert "400" in pages.complaints.pop()
    dialog.get_by_label("Gate").fill("success >= baseline - 0.02")
    dialog.get_by_role("button", name="Start canary").click()
    made.get_by_text("10.0 %").wait_for()
    assert router().candidates[0].stage == admin_pb2.POLICY_STAGE_CANARY
    require_sound(page, "a canary")
    made.get_by_role("button", name="Promote…").click()
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    made.get_by_role("button", name="Roll back…").wait_for()
    assert router().policy == "linucb"
    made.get_by_role("button", name="Roll back…").click()
    page.get_by_role("dialog").get_by_label("Why").fill("enough")
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    page.get_by_text("rolled back", exact=True).wait_for()
    assert router().policy == "uniform"
    act(page, "Set frozen…", "Set frozen")
    assert router().mode == admin_pb2.MODE_FROZEN
    act(page, "Set live…", "Set live")
    assert router().mode == admin_pb2.MODE_LIVE


def test_who_may_only_look_gets_no_buttons(chromium, busy):
    pages = Pages(chromium, busy.http)
    page = pages.open("log?router=main")

    def looking(route):
        state = route.fetch().json()
        route.fulfill(json={**state, "routers": [{**each, "act": False} for each in state["routers"]]})

    page.route("**/api/state", looking)
    for view in ("arms", "policies"):
        page.goto("about:blank")
        pages.go(page, f"{view}?router=main")
        assert page.locator("main button").count() == 0
    pages.close()
    assert pages.complaints == []


def test_a_token_shows_the_routers_that_it_is_good_for(chromium, serving, tmp_path):
    tokens = Tokens(tmp_path / "data")
    looking, acting = tokens.create("read", routers=("main",)), tokens.create("read", "admin")
    server = serving(tmp_path / "data", "[security]\ntokens = true\n" + TWO_ROUTERS)
    pages = Pages(chromium, server.http)
    page = pages.open("arms")
    for token, works in (("pointsman_x_y", False), (looking, True)):
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        if not works:
            page.get_by_text("the bearer token is not valid").wait_for()
            require_sound(page, "to sign in")
            assert "401" in pages.complaints.pop()
    page.get_by_role("heading", name="Arms").wait_for()
    assert page.get_by_role("button", name="Take down…").count() == 0 and page.get_by_label("Router").count() == 0
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Token").fill(acting)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Router").select_option("other")
    page.get_by_role("button", name="Take down…").first.wait_for()
    pages.close()
    server.stop()
    assert pages.complaints == []
