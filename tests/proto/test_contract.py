"""The protos against the rules of the interface: names that callers rely on, read from the descriptors."""

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

from pointsman.v1 import admin_pb2, events_pb2, routing_pb2

FILES: list[FileDescriptor] = [routing_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR, events_pb2.DESCRIPTOR]
ENUMS: list[EnumDescriptor] = [enum for file in FILES for enum in file.enum_types_by_name.values()]

METHODS = {
    "Routing": "Select BatchSelect Escalate ReportProgress Reward GetSession GetDecision",
    "Admin": "CreateRouter GetRouter UpdateRouter ListRouters PutArm ListArms RetireArm SetAvailability CreatePolicy "
    "ListPolicies StartShadow StartCanary PromotePolicy RollBackPolicy SetMode",
    "Events": "ExportEvents ImportEvents EraseSessions",
}

FIELDS = {
    "SelectRequest": "router session_id request_id features allow deny required_capabilities max_cost_usd pinned_arm",
    "SelectResponse": "decision_id session_id arm propensity scores ladder reason attempt policy_version epoch",
    "ArmScore": "arm propensity success_mean success_low success_high cost_usd eligible ineligible_reason",
    "FeatureValue": "number category text flag embedding",
    "Embedding": "values",
    "BatchSelectRequest": "router requests",
    "BatchSelectResponse": "responses",
    "EscalateRequest": "router session_id decision_id request_id reason outcome features",
    "AttemptOutcome": "cost_usd usage latency_seconds",
    "EscalateResponse": "next exhausted",
    "ReportProgressRequest": "router session_id decision_id request_id signals",
    "ProgressSignals": "turns tool_calls tool_errors repeated_calls failed_tests reverted_edits usage cost_usd",
    "ReportProgressResponse": "action arm success_mean",
    "Usage": "input_tokens output_tokens cached_tokens",
    "RewardRequest": "router decision_id session_id request_id success cost_usd usage latency_seconds served_arm "
    "metrics revision final",
    "RewardResponse": "accepted_revision",
    "GetSessionRequest": "router session_id",
    "GetDecisionRequest": "router decision_id",
    "GetDecisionResponse": "epoch features scores confirmed erased",
}

VALUES = {
    "SelectReason": "SAMPLED STICKY PINNED ONLY_ELIGIBLE BASELINE ESCALATED REROUTED_UNAVAILABLE REROUTED_CAPABILITY "
    "REROUTED_POLICY",
    "EscalationReason": "VERIFIED_FAILURE STRUGGLING USER_REQUEST CAPABILITY UNAVAILABLE POLICY",
    "ProgressAction": "CONTINUE ESCALATE STOP",
    "Mode": "APPRENTICE LIVE FROZEN",
}

# Scalars of which absence means something else than 0.
OPTIONAL = {
    "SelectRequest": "max_cost_usd",
    "ArmScore": "success_mean success_low success_high cost_usd",
    "AttemptOutcome": "cost_usd latency_seconds",
    "Usage": "input_tokens output_tokens cached_tokens",
    "ProgressSignals": "turns tool_calls tool_errors repeated_calls failed_tests reverted_edits cost_usd",
    "RewardRequest": "success cost_usd latency_seconds revision",
}


def requests() -> Iterator[Descriptor]:
    for file in FILES:
        for service in file.services_by_name.values():
            for method in service.methods:
                yield method.input_type


def message(name: str) -> Descriptor:
    return routing_pb2.DESCRIPTOR.message_types_by_name[name]


@pytest.mark.parametrize("request_type", list(requests()), ids=lambda d: d.name)
def test_every_request_names_a_router(request_type: Descriptor) -> None:
    field = request_type.fields_by_name["router"]
    assert (field.number, field.type) == (1, FieldDescriptor.TYPE_STRING)


@pytest.mark.parametrize("service", METHODS)
def test_services_have_their_methods(service: str) -> None:
    found = {name: each for file in FILES for name, each in file.services_by_name.items()}
    assert [method.name for method in found[service].methods] == METHODS[service].split()


def test_only_events_stream() -> None:
    streams = {
        method.name: (method.client_streaming, method.server_streaming)
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
        if method.client_streaming or method.server_streaming
    }
    assert streams == {"ExportEvents": (False, True), "ImportEvents": (True, False)}


@pytest.mark.parametrize("name", FIELDS)
def test_messages_have_their_fields(name: str) -> None:
    assert set(FIELDS[name].split()) <= set(message(name).fields_by_name)


@pytest.mark.parametrize("name", OPTIONAL)
def test_absence_can_be_told_from_zero(name: str) -> None:
    fields = message(name).fields_by_name
    assert [field for field in OPTIONAL[name].split() if not fields[field].has_presence] == []


@pytest.mark.parametrize(
    ("name", "oneof", "members"),
    [
        ("FeatureValue", "value", "number category text flag embedding"),
        ("EscalateResponse", "outcome", "next exhausted"),
        ("BatchSelectResult", "result", "response status"),
    ],
)
def test_one_of(name: str, oneof: str, members: str) -> None:
    assert [field.name for field in message(name).oneofs_by_name[oneof].fields] == members.split()


@pytest.mark.parametrize("enum", ENUMS, ids=lambda e: e.name)
def test_enums_start_unspecified_and_carry_their_prefix(enum: EnumDescriptor) -> None:
    prefix = "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(enum.name)).upper() + "_"
    assert enum.values_by_number[0].name == f"{prefix}UNSPECIFIED"
    assert [value.name for value in enum.values if not value.name.startswith(prefix)] == []
    if enum.name in VALUES:
        assert [value.name.removeprefix(prefix) for value in enum.values][1:] == VALUES[enum.name].split()


def test_enums_stand_at_top_level() -> None:
    nested = [each.full_name for file in FILES for each in file.message_types_by_name.values() if each.enum_types]
    assert nested == []
    assert set(VALUES) <= {enum.name for enum in ENUMS}
