"""The figures are those of the log, in whatever pieces it was read, and after a restart too."""

import time

import pytest

from bandit import tally
from server import sessions
from server.dashboard import books as books_of
from server.dashboard import figures
from server.dashboard.books import Books
from server.dashboard.keeper import Keeper, Question
from server.store.sqlite import SqliteStore
from tests.server.dashboard.conftest import live

NOW_US = 2**60


def whole(ledger):
    sums = tally.Sums()
    for step in ledger.steps("all", NOW_US).values():
        sums.add(step)
    return sums


def by_hand(reader, router):
    """Every session of the log as it stands, added up."""
    shares, sums = tally.Shares(), tally.Sums()
    names = {event.session_id: None for event in reader.read(0, 100_000) if event.router == router and event.session_id}
    for name in names:
        sums.put(shares.of(sessions.load(reader, router, name)))
    return sums


@pytest.fixture
def reader(busy):
    opened = SqliteStore.open_reader(busy.data_dir)
    yield opened
    opened.close()


@pytest.mark.parametrize("page", [1, 7, 500])
def test_the_books_come_to_what_the_sessions_do(reader, tmp_path, monkeypatch, page):
    monkeypatch.setattr(books_of, "_PAGE", page)
    # Most sessions have to be read back.
    monkeypatch.setattr(books_of, "_KEPT_SESSIONS", 3)
    books = Books(reader, tmp_path / "books")
    while books.step():
        pass
    found, expected = whole(books.ledger("main")), by_hand(reader, "main")
    assert books.seq == reader.last_seq and found.moves == expected.moves
    for name in tally.WHOLE:
        assert found.whole(name) == pytest.approx(expected.whole(name)), name
    assert found.whole("sessions") >= 60 and found.whole("open") >= 12
    assert list(books.ledger("main").open_sessions)[-1:] != []


def test_what_was_written_down_is_not_read_again(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(books_of, "_PAGE", 50)
    half = Books(reader, tmp_path / "books")
    half.step()
    half.save(NOW_US // 2**10)
    again = Books(reader, tmp_path / "books")
    assert again.seq == half.seq == 50
    while again.step():
        pass
    anew = Books(reader, tmp_path / "nothing")
    while anew.step():
        pass
    assert whole(again.ledger("main")).moves == whole(anew.ledger("main")).moves
    assert list(again.ledger("main").decisions) == list(anew.ledger("main").decisions)
    assert list(again.ledger("main").open_sessions) == list(anew.ledger("main").open_sessions)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x84\xa7version\x02"])
def test_a_file_that_says_nothing_is_made_anew(reader, tmp_path, content):
    (tmp_path / "books").write_bytes(content)
    assert Books(reader, tmp_path / "books").seq == 0


def test_the_file_of_another_log_is_not_taken(reader, serving, tmp_path):
    other = serving(tmp_path / "data")
    live(other.routing, "default", 10)
    other.stop()
    stranger = SqliteStore.open_reader(other.data_dir)
    books = Books(stranger, tmp_path / "books")
    books.step()
    books.save(NOW_US // 2**10)
    stranger.close()
    assert Books(reader, tmp_path / "books").seq == 0


def test_steps_of_time_are_kept_as_long_as_they_are_shown(reader, tmp_path):
    books = Books(reader, tmp_path / "books")
    while books.step():
        pass
    ledger = books.ledger("main")
    now_us = int(time.time() * 1e6)
    for name in ("minutes", "hour", "day", "month", "all"):
        assert sum(step.whole("sessions") for step in ledger.steps(name, now_us).values()) >= 60
    tomorrow_us = now_us + 2 * 86_400_000_000
    assert not ledger.steps("day", tomorrow_us) and ledger.steps("month", tomorrow_us)
    ledger.forget(tomorrow_us)
    assert not ledger.steps("day", now_us) and ledger.steps("month", now_us) and ledger.steps("all", now_us)


def test_the_keeper_says_what_the_page_shows(reader, tmp_path):
    books = Books(reader, tmp_path / "books")
    while books.step():
        pass
    told = Keeper(reader, books)
    overview = told.answer(Question(number=1, what="overview", router="main", range="all", arms=("a", "b", "c")))
    assert overview["totals"]["sessions"] == sum(arm["begun"] for arm in overview["arms"])
    assert overview["baseline"]["arm"] in {"a", "b", "c"} and overview["frontier"]
    assert sum(n for attempt, _, _, n in overview["moves"] if attempt == 1) == overview["totals"]["sessions"]
    decisions = told.answer(Question(number=2, what="decisions", router="main"))["decisions"]
    assert [each["at_us"] for each in decisions] == sorted((each["at_us"] for each in decisions), reverse=True)
    assert all(each["why"] for each in decisions)
    opened = told.answer(Question(number=3, what="open", router="main"))["sessions"]
    assert len(opened) == overview["totals"]["open"]
    with pytest.raises(ValueError, match="no answer"):
        told.answer(Question(number=4, what="gossip", router="main"))


def test_an_empty_router_has_empty_figures(reader, tmp_path):
    books = Books(reader, tmp_path / "books")
    found = figures.overview(books.ledger("nobody"), "day", NOW_US, arms=("a",), baseline=None)
    assert found["totals"]["sessions"] == 0 and found["baseline"] is None and found["series"] == []
