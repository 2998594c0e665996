"""`pointsman arms`: lists a router's arms, shows one in full, and changes one."""

import argparse

from bandit.errors import InvalidInput
from pointsman import Client
from pointsman.v1 import admin_pb2 as pb
from server.console import arguments, tables
from server.console.command import Refused, Subparsers, add, as_json
from server.console.output import Output

_PUT = {
    "input_price": "--input-price",
    "output_price": "--output-price",
    "cached_price": "--cached-price",
    "context_window": "--context-window",
    "can": "--can",
    "provider": "--provider",
}
"""What --put sets, by flag; what is not given stays as it is."""


def add_arms(subparsers: Subparsers) -> None:
    """Adds `arms`."""
    parser = add(
        subparsers,
        "arms",
        _arms,
        "The arms of a router: prices, abilities, what is down. With ARM, that one in full; with one of --down, --up, "
        "--put and --retire too, changes it, from the next decision on.",
    )
    parser.add_argument("arm", metavar="ARM", nargs="?", type=arguments.word)
    parser.add_argument("--all", action="store_true", help="retired ones too")
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--down", metavar="SECONDS", type=arguments.seconds, help="down for so long")
    change.add_argument("--up", action="store_true", help="up again")
    change.add_argument("--put", action="store_true", help="add it, or change what the flags below name")
    change.add_argument("--retire", action="store_true", help="take it out for good; its id is never used again")
    parser.add_argument("--why", metavar="WORDS", type=arguments.encodable, help="with --down: for people")
    parser.add_argument(
        "--endpoint", metavar="NAME", type=arguments.word, help="with --down or --up: only this one of it"
    )
    for which in ("input", "output", "cached"):
        help_text = f"with --put: dollars per million {which} tokens"
        parser.add_argument(f"--{which}-price", metavar="USD", type=arguments.dollars, help=help_text)
    parser.add_argument(
        "--context-window", metavar="N", type=arguments.count, help="with --put: the longest prompt it takes, in tokens"
    )
    parser.add_argument("--can", metavar="C,D,…", type=arguments.words, help="with --put: its capabilities")
    parser.add_argument("--provider", metavar="NAME", type=arguments.word, help="with --put: who serves it")


def _arms(asked: argparse.Namespace, client: Client, output: Output) -> None:
    _check(asked)
    router = asked.router or ""
    if asked.arm is None:
        request = pb.ListArmsRequest(router=router, include_retired=asked.all)
        listed = client.call(client.admin.ListArms, request)
        output.json(as_json(listed))
        tables.arms(listed.arms, output)
        return
    if asked.down is not None or asked.up:
        availability = pb.SetAvailabilityRequest(
            router=router,
            arm=asked.arm,
            down_seconds=asked.down or 0.0,
            why=asked.why or "",
            endpoint=asked.endpoint or "",
        )
        arm = client.call(client.admin.SetAvailability, availability).arm
    elif asked.retire:
        arm = client.call(client.admin.RetireArm, pb.RetireArmRequest(router=router, arm=asked.arm)).arm
    elif asked.put:
        there = _find(client, router, asked.arm) or pb.Arm(id=asked.arm)
        arm = client.call(client.admin.PutArm, pb.PutArmRequest(router=router, arm=_changed(there, asked))).arm
    else:
        found = _find(client, router, asked.arm)
        if found is None:
            raise Refused(f"NOT_FOUND: no arm {asked.arm!r} (ARM)")
        arm = found
    output.json(as_json(arm))
    tables.arm(arm, output)


def _check(asked: argparse.Namespace) -> None:
    """Raises InvalidInput where flags do not belong together."""
    given = {flag for name, flag in _PUT.items() if getattr(asked, name) is not None}
    changes = asked.put or asked.retire or asked.up or asked.down is not None
    if changes and asked.arm is None:
        raise InvalidInput("ARM", "which one is to be changed?")
    if given and not asked.put:
        raise InvalidInput(min(given), "goes with --put")
    if asked.why is not None and asked.down is None:
        raise InvalidInput("--why", "goes with --down")
    if asked.endpoint is not None and asked.down is None and not asked.up:
        raise InvalidInput("--endpoint", "goes with --down or --up")


def _find(client: Client, router: str, arm: str) -> pb.Arm | None:
    """The arm, retired or not."""
    request = pb.ListArmsRequest(router=router, include_retired=True)
    return next((each for each in client.call(client.admin.ListArms, request).arms if each.id == arm), None)


def _changed(arm: pb.Arm, asked: argparse.Namespace) -> pb.Arm:
    if asked.provider is not None:
        arm.provider = asked.provider
    if asked.can is not None:
        arm.capabilities[:] = asked.can
    if asked.context_window is not None:
        arm.context_window_tokens = asked.context_window
    if asked.input_price is not None:
        arm.prices.input_usd_per_million = asked.input_price
    if asked.output_price is not None:
        arm.prices.output_usd_per_million = asked.output_price
    if asked.cached_price is not None:
        arm.prices.cached_usd_per_million = asked.cached_price
    return arm
