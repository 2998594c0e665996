"""Before the service is ready: the configuration enters the log, and every router gets an epoch to decide under."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from bandit import record
from bandit.events import Event
from server.config import Config
from server.fitter import Beside, Fitting, Inline
from server.fold import Fitter, discard_foreign
from server.routers import Router, differences, refresh
from server.store.epochs import EpochFiles
from server.store.protocol import NewEvent, Store


def bring_up(
    config: Config, store: Store, epochs: EpochFiles, routers: Mapping[str, Router], data_dir: Path
) -> Fitting:
    """Appends what the configuration says and the log does not, folds at least to a first epoch of every router, and
    brings the routers up to the log. Returns how epochs will come from now on; it is not started yet.
    """
    discard_foreign(epochs, store)
    changed = _configure(config, store, epochs, routers)
    fitter = Fitter(store, epochs, routers)
    fitting: Fitting
    inline = config.service.fitter == "inline"
    if changed or inline:
        # What was configured is in force from the first Select on.
        fitter.catch_up()
    if inline:
        fitting = Inline(fitter, routers)
    else:
        while any(fitter.learner(router).vintage is None for router in routers) and fitter.step() is not None:
            pass
        fitting = Beside(data_dir, epochs, routers)
    refresh(routers.values(), store, epochs)
    return fitting


def _configure(config: Config, store: Store, epochs: EpochFiles, routers: Mapping[str, Router]) -> bool:
    """Whether anything had to be appended."""
    refresh(routers.values(), store, epochs)
    events: list[NewEvent] = []
    for wanted in config.routers:
        router = routers[wanted.settings.id]
        # What nobody configured is a proposal for a log that has no such router yet.
        if not config.bundled or router.configuration.settings is None:
            events += (_logged(router.id, event) for event in differences(router, wanted))
    if events:
        store.append(events)
    return bool(events)


def _logged(router: str, event: Event) -> NewEvent:
    recorded = record.encode(event, salt=os.urandom(record.SALT_BYTES))
    return NewEvent(at_us=int(time.time() * 1e6), kind=recorded.kind, router=router, body=recorded.body)
