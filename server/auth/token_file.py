"""Tokens in a file of the data directory, which its owner alone can read."""

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bandit.errors import Unknown
from server.auth.tokens import Token
from server.store.errors import StoreError, StoreUnavailable
from server.store.files import make_directory, replace_file

FILE = "tokens.json"

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: tuple[Token, ...] = ()


class FileTokens:
    """The tokens of a file; none where there is none. See `TokenStore`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        """What the file looked like when it was last read."""

    def read(self) -> Mapping[str, Token]:
        """See `TokenStore`."""
        self._seen = self._look()
        try:
            return {token.id: token for token in self._read().tokens}
        except OSError as error:
            raise StoreUnavailable(f"{self._path} cannot be read: {error.strerror}") from error

    def read_again(self) -> Mapping[str, Token] | None:
        """See `TokenStore`."""
        return self.read() if self._look() != self._seen else None

    def add(self, token: Token) -> None:
        """See `TokenStore`."""
        with self._changing() as tokens:
            tokens[token.id] = token

    def remove(self, token_id: str) -> Token:
        """See `TokenStore`."""
        with self._changing() as tokens:
            if token_id not in tokens:
                raise Unknown("id", "token", token_id)
            return tokens.pop(token_id)

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreUnavailable(f"{self._path} cannot be read: {error.strerror}") from error
        # It is always replaced, never written to: another file has another inode or time.
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode

    def _read(self) -> _File:
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & _OTHERS_MAY_WRITE:
                    raise StoreError(f"{self._path} may be written by others: chmod 600 it")
                return msgspec.json.decode(file.read(), type=_File)
        except FileNotFoundError:
            return _File()
        except msgspec.MsgspecError as error:
            raise StoreError(f"{self._path} is no file of tokens: {error}") from error

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Token]]:
        """The tokens, which are written when the block ends; one command at a time."""
        try:
            make_directory(self._path.parent, mode=0o700)
            beside = self._path.with_name(self._path.name + ".lock")
            lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                tokens = {token.id: token for token in self._read().tokens}
                yield tokens
                replace_file(self._path, msgspec.json.encode(_File(tuple(tokens.values()))) + b"\n", mode=0o600)
            finally:
                os.close(lock)
        except OSError as error:
            raise StoreUnavailable(f"{self._path} cannot be written: {error.strerror}") from error
