"""Is there an order of a session's operations, each between its beginning and its end, that the model allows?

The search of Wing and Gong, doi:10.1006/jpdc.1993.1015, with the states that were seen kept, as Lowe does,
doi:10.1002/cpe.3928.
"""

from collections.abc import Sequence

from tests.faults.history import Inconsistent, Operation, merged
from tests.faults.model import State, steps

_MOST = 2_000_000


def check(operations: Sequence[Operation]) -> None:
    """Raises Inconsistent where there is none: then what clients were told contradicts the promises."""
    calls = sorted(merged(operations), key=lambda one: one.begun)
    answered = frozenset(i for i, call in enumerate(calls) if call.answer is not None)
    seen: set[tuple[frozenset[int], State]] = set()
    furthest: frozenset[int] = frozenset()
    stack: list[tuple[frozenset[int], State]] = [(frozenset(), State())]
    while stack:
        done, state = stack.pop()
        left = answered - done
        if not left:
            return
        if len(done & answered) > len(furthest & answered):
            furthest = done
        if len(seen) > _MOST:
            raise Inconsistent(f"the search of session {calls[0].session} has no end: {len(calls)} operations")
        # What began after another one had been answered cannot have come before it.
        first_end = min(calls[i].ended for i in left)
        for i, call in enumerate(calls):
            if i in done or call.begun > first_end:
                continue
            for after in steps(state, call):
                reached = (done | {i}, after)
                if reached not in seen:
                    seen.add(reached)
                    stack.append(reached)
    told = [f"{'+' if i in furthest else ' '} {_line(call)}" for i, call in enumerate(calls)]
    raise Inconsistent(f"session {calls[0].session}: no order explains what was answered\n" + "\n".join(told))


def _line(call: Operation) -> str:
    answer = call.answer if call.answer is not None else "?"
    return f"{call.begun:.4f}…{call.ended:.4f} {call.key:>12} {call.asked} → {answer}"
