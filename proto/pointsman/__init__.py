"""The client of Pointsman: asks which arm takes a session, and tells how it went.

>>> from pointsman import Client, Text
>>> with Client() as client:  # doctest: +SKIP
...     choice = client.select({"category": "bugfix", "files": 3, "title": Text("fix the parser")})
...     run_agent(model=choice.arm)
...     client.reward(decision_id=choice.decision_id, success=1.0, cost_usd=0.12, final=True)
"""

from pointsman.client import AsyncClient, Client
from pointsman.errors import field_violations, retry_seconds
from pointsman.requests import Features, Text, select_request
from pointsman.v1.admin_pb2 import Arm
from pointsman.v1.routing_pb2 import (
    EscalationReason,
    ProgressAction,
    ProgressSignals,
    SelectReason,
    SelectResponse,
    Usage,
)

__all__ = [
    "Arm",
    "AsyncClient",
    "Client",
    "EscalationReason",
    "Features",
    "ProgressAction",
    "ProgressSignals",
    "SelectReason",
    "SelectResponse",
    "Text",
    "Usage",
    "field_violations",
    "retry_seconds",
    "select_request",
]
