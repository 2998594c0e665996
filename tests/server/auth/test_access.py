"""Who is let in, by which token, to do what."""

import os

import pytest

from bandit.errors import Unknown
from server.auth.access import Access, Forbidden, Unauthenticated
from server.auth.grants import Grant, Scope
from server.auth.tokens import Token, issue

NOW = 1_700_000_000.0


class Kept:
    """Tokens in memory."""

    def __init__(self, *tokens: Token) -> None:
        self.tokens = {token.id: token for token in tokens}

    def read(self):
        return dict(self.tokens)

    def read_again(self):
        return dict(self.tokens)

    def add(self, token: Token) -> None:
        self.tokens[token.id] = token

    def remove(self, token_id: str) -> Token:
        if token_id not in self.tokens:
            raise Unknown("id", "token", token_id)
        return self.tokens.pop(token_id)


def made(*scopes: Scope, routers=None, expires_us=None) -> tuple[str, Token]:
    grant = Grant(scopes=frozenset(scopes), routers=frozenset(routers) if routers is not None else None)
    return issue("x", grant, now_us=int(NOW * 1e6), expires_us=expires_us, entropy=os.urandom)


def test_without_tokens_and_certificates_anybody_may_do_everything():
    caller = Access().identify(None)
    assert all(caller.may(scope, router) for scope in Scope for router in ("default", None))


def test_a_token_lets_its_owner_do_what_it_grants_and_nothing_else():
    secret, token = made(Scope.ROUTE, Scope.READ, routers=["a", "b"])
    caller = Access(Kept(token)).identify(f"Bearer {secret}")
    granted = {(scope, router) for scope in Scope for router in ("a", "b", "c", "default", "", None)
               if caller.may(scope, router)}  # fmt: skip
    assert granted == {(scope, router) for scope in (Scope.ROUTE, Scope.READ) for router in ("a", "b")}
    with pytest.raises(Forbidden, match=f"token {token.id} lacks the scope 'admin' on router 'a'"):
        caller.require(Scope.ADMIN, "a")
    with pytest.raises(Forbidden, match="on all routers"):
        caller.require(Scope.READ, None)


def test_one_for_all_routers_holds_for_those_to_come():
    secret, token = made(Scope.READ)
    caller = Access(Kept(token)).identify(f"bearer {secret}")
    assert caller.may(Scope.READ, None)
    assert caller.may(Scope.READ, "new")
    assert not caller.may(Scope.ROUTE, "new")


def test_nothing_but_the_whole_token_is_good():
    secret, token = made(Scope.READ)
    other, another = made(Scope.READ)
    access = Access(Kept(token, another))
    mixed = f"{secret.rsplit('_', 1)[0]}_{other.split('_', 2)[2]}"
    wrong = [None, "", "Bearer", "Bearer ", f"Basic {secret}", secret, f"Bearer  {secret}", f"Bearer {secret} ",
             f"Bearer {secret[:-1]}", f"Bearer {secret}A", f"Bearer {secret.swapcase()}", f"Bearer {mixed}",
             f"Bearer {secret},Bearer {other}", f"Bearer pointsman_{token.id}_", f"Bearer pointsman_{token.id}",
             "Bearer pointsman__", "Bearer \udcff\x00ü", f"Bearer {token.digest.hex()}", "Bearer " + "x" * 1_000_000,
             f"Bearer pointsman_{token.id}_{token.digest.hex()}"]  # fmt: skip
    for authorization in wrong:
        with pytest.raises(Unauthenticated) as refused:
            access.identify(authorization)
        assert len(str(refused.value)) < 100
    assert access.identify(f"Bearer {secret}").grant == token.grant


def test_a_token_ends_when_it_expires():
    now = NOW
    secret, token = made(Scope.READ, expires_us=int((NOW + 10) * 1e6))
    access = Access(Kept(token), clock=lambda: now)
    caller = access.identify(f"Bearer {secret}")
    assert access.still_knows(caller)
    now = NOW + 10
    assert not access.still_knows(caller)
    with pytest.raises(Unauthenticated, match="expired"):
        access.identify(f"Bearer {secret}")


def test_a_certificate_is_known_by_its_names_and_stands_in_for_no_token():
    grant = Grant(scopes=frozenset({Scope.REWARD}))
    secret, token = made(Scope.READ)
    access = Access(Kept(token), {"agents.example.org": grant})
    assert access.identify(None, ["other", "agents.example.org"]).grant == grant
    assert access.identify(f"Bearer {secret}", ["agents.example.org"]).grant == token.grant
    for authorization, names in ((None, ["other"]), ("Bearer x", ["agents.example.org"])):
        with pytest.raises(Unauthenticated):
            access.identify(authorization, names)


def test_what_is_kept_does_not_hold_the_secret():
    secret, token = made(Scope.READ)
    assert secret.split("_", 2)[2] not in repr(token)
    assert len(secret.split("_", 2)[2]) == 43  # 256 bits
    assert made(Scope.READ)[0] != secret
