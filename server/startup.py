"""Before the service is ready: the configuration enters the log, and every router gets an epoch to decide under."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bandit import record
from bandit.configuration import Configuration
from bandit.errors import InvalidInput
from bandit.events import Event
from server.administration import require_sound
from server.config import Config
from server.fitter import Beside, Fitting, Inline
from server.fold import Fitter, discard_foreign
from server.reconfigure import changes
from server.routers import Router, refresh
from server.store.epochs import EpochFiles, Epochs
from server.store.errors import StoreMoved, StoreUnavailable
from server.store.protocol import EventReader, NewEvent, SharedStore, Store

_EPOCH_SECONDS = 30.0


def bring_up(config: Config, store: Store, epochs: EpochFiles, routers: dict[str, Router], data_dir: Path) -> Fitting:
    """Appends what the configuration says and the log does not, folds at least to a first epoch of every router, and
    brings `routers` up to the log. Returns how epochs will come from now on; it is not started yet.
    """
    discard_foreign(epochs, store)
    changed = _configure(config, store.append, store, epochs, routers)
    fitter = Fitter(store, epochs)
    fitting: Fitting
    inline = config.service.fitter == "inline"
    if changed or inline:
        # What was configured is in force from the first Select on.
        fitter.catch_up()
    if inline:
        fitting = Inline(fitter, routers)
    else:
        while any(learner.vintage is None for learner in fitter.learners.values()) and fitter.step() is not None:
            pass
        fitting = Beside(data_dir, epochs, routers)
    refresh(routers, store, epochs)
    return fitting


def bring_up_shared(
    config: Config, store: SharedStore, epochs: Epochs, routers: dict[str, Router], data_dir: Path
) -> Fitting:
    """As `bring_up`, where other replicas may be doing the same: whichever of them folds, epochs come from there.

    Raises InvalidInput where the configuration asks for what replicas cannot do.
    """
    if config.service.fitter == "inline":
        raise InvalidInput(
            "service.fitter", 'is "inline", which is for a data directory: here another replica may fold'
        )
    while True:
        try:
            _configure(config, lambda events: store.append_unless(events, lambda _: True), store, epochs, routers)
            break
        except StoreMoved:
            # Perhaps by a replica with the same configuration.
            while store.news():
                pass
    refresh(routers, store, epochs)
    return Beside(data_dir, epochs, routers)


async def in_force(routers: Mapping[str, Router]) -> None:
    """Returns when what the log says of each router is what it decides by. Raises StoreUnavailable after a while."""
    try:
        async with asyncio.timeout(_EPOCH_SECONDS):
            for router in list(routers.values()):
                if router.configuration.settings is not None:
                    await router.follows()
                    for arm in router.configuration.arms:
                        await router.knows(arm.id)
    except TimeoutError as error:
        raise StoreUnavailable("no replica folds the log: there is no epoch to decide by") from error


def _configure(
    config: Config,
    append: Callable[[Sequence[NewEvent]], object],
    reader: EventReader,
    epochs: Epochs,
    routers: dict[str, Router],
) -> bool:
    """Whether anything had to be appended. Raises PointsmanError where file and log contradict each other."""
    refresh(routers, reader, epochs)
    at_us = int(time.time() * 1e6)
    events: list[NewEvent] = []
    for file in config.routers:
        router = routers.get(file.settings.id)
        configuration = router.configuration if router is not None else Configuration()
        if config.bundled and configuration.settings is not None:
            # What nobody configured is a proposal for a log that has no such router yet.
            continue
        changed = changes(configuration, file, at_us=at_us)
        for event in changed:
            configuration = configuration.apply(event)
            events.append(_logged(file.settings.id, event, at_us))
        assert configuration.settings is not None, "the file has settings"
        if changed:
            # What the log alone says has been served like that: an import may have brought a baseline that is retired.
            require_sound(configuration, configuration.settings)
    if events:
        append(events)
    return bool(events)


def _logged(router: str, event: Event, at_us: int) -> NewEvent:
    recorded = record.encode(event, salt=os.urandom(record.SALT_BYTES))
    return NewEvent(at_us=at_us, kind=recorded.kind, router=router, body=recorded.body)
