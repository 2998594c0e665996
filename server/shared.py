"""Rounds on a log to which other replicas append.

What this replica knows of sessions and routers is as after some event of the log. Before a round is taken, everything
that others have appended is taken in: so no answer rests on what was another's to change before it was asked for. If
others append between that and the round's own events, and it makes a difference to them, the round is undone and taken
again; and where that goes on, it is taken while nobody else can append.
"""

from collections.abc import Iterable
from contextlib import nullcontext

from server.rounds import Round
from server.routers import Router, follow
from server.sessions import SessionCache
from server.store.errors import StoreError, StoreMoved
from server.store.protocol import SharedStore, StoredEvent

_PATIENT_TAKES = 2
"""Times that a round is taken before the log is held for it."""


class Shared:
    """Carries out one round at a time, from any thread."""

    def __init__(self, store: SharedStore, sessions: SessionCache, routers: dict[str, Router]) -> None:
        self._store = store
        self._sessions = sessions
        self._routers = routers

    def carry_out(self, round_: Round) -> None:
        """Takes a round and makes its events durable. Raises StoreError; then it has done nothing, or the log will
        say what."""
        taken = 0
        while True:
            held = self._store.held() if taken >= _PATIENT_TAKES else nullcontext()
            try:
                with held:
                    self.catch_up()
                    round_.take()
                    taken += 1
                    if (damage := round_.damage) is not None:
                        raise damage
                    others = self._store.append_unless(round_.events, round_.contradicted_by) if round_.events else []
            except StoreMoved:
                round_.undo()
                continue
            except StoreError:
                round_.undo()
                raise
            self._take_in(others)
            return

    def catch_up(self) -> None:
        """Takes in what others have appended."""
        while events := self._store.news():
            self._take_in(events)

    def _take_in(self, events: Iterable[StoredEvent]) -> None:
        for stored in events:
            if stored.session_id:
                self._sessions.forget(stored.router, stored.session_id)
            router = self._routers.get(stored.router)
            if router is None:
                router = self._routers[stored.router] = Router(stored.router)
                router.created_us = stored.at_us
            follow(router, stored, self._store)
