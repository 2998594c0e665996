"""The only place where an arm is drawn, and where randomness is keyed.

Every stream is a keyed hash of (router seed, session id, attempt), so a decision can be drawn again from its log
alone; streams of different purposes are independent because the purpose personalises the hash.
"""

import functools
import hashlib
import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BANK = 1 << 17
"""Normals kept per seed; a decision reads a window of them at a keyed offset."""


def _stream(purpose: bytes, seed: int, session_id: str, attempt: int) -> int:
    """64 bits keyed by a decision and a purpose (at most 16 bytes)."""
    text = f"{seed}\0{attempt}\0{session_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=purpose).digest(), "big")


def uniform(purpose: bytes, seed: int, session_id: str, attempt: int) -> float:
    """A number in [0, 1) with 53 random bits, a function of its arguments."""
    return (_stream(purpose, seed, session_id, attempt) >> 11) * 2.0**-53


def generator(purpose: bytes, seed: int, session_id: str) -> np.random.Generator:
    """A generator of random numbers for a session, as long as they are needed."""
    return np.random.default_rng(_stream(purpose, seed, session_id, 0))


@functools.lru_cache(maxsize=8)
def _bank(seed: int, size: int) -> Floats:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(_BANK + size)


def normals(seed: int, session_id: str, attempt: int, shape: tuple[int, int]) -> Floats:
    """Standard normals of `shape` for the posterior draws of one decision; independent of its lottery.

    They are a window of a bank made once per seed: drawing them anew would cost more than all the rest of a
    single-arm decision, and the propensity is exact for whatever draws it is given.
    """
    size = shape[0] * shape[1]
    start = _stream(b"draws", seed, session_id, attempt) % _BANK
    return _bank(seed, size)[start : start + size].reshape(shape)


def with_floor(shares: Floats, allowed: npt.NDArray[np.bool_], floor: float) -> Floats:
    """(1 - floor) x shares + floor x uniform over the allowed; `shares` (…, n_arms) sum to 1 over the allowed arms."""
    propensities = (1.0 - floor) * shares + np.where(allowed, floor / np.count_nonzero(allowed), 0.0)
    return np.asarray(propensities / propensities.sum(axis=-1, keepdims=True))


def draw_arm(propensities: Floats, *, seed: int, session_id: str, attempt: int) -> int:
    """Index of the arm drawn from `propensities`, shape (n_arms,), non-negative with sum 1.

    Raises ValueError where that is not a distribution (a policy's defect must not become a biased log).
    """
    shares: list[float] = propensities.tolist()
    total = math.fsum(shares)
    if not (shares and min(shares) >= 0.0 and abs(total - 1.0) < 1e-9):
        raise ValueError(f"not a distribution over arms: {propensities}")
    left = uniform(b"lottery", seed, session_id, attempt) * total
    drawn = 0
    for arm, share in enumerate(shares):
        if share > 0.0:
            drawn = arm
            if left < share:
                break
            left -= share
    return drawn


def draw_stop(stop_propensity: float, *, seed: int, session_id: str, attempt: int) -> bool:
    """Whether the session gives up before `attempt`, with probability `stop_propensity`."""
    return uniform(b"stop", seed, session_id, attempt) < stop_propensity


def draw_canary(share: float, *, seed: int, session_id: str, policy_version: str) -> bool:
    """Whether a canary of that version, with that share of new sessions, decides for the session."""
    # A version holds no control characters, so that no two pairs give the same key.
    return uniform(b"canary", seed, f"{policy_version}\0{session_id}", 0) < share
