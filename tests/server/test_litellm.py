"""LiteLLM's real Router, with answers of its own making, asks a real server: picks, reports, failures, outages."""

import asyncio
import itertools
import os
import time

import pytest

from pointsman import Client, SelectReason
from pointsman.v1 import routing_pb2 as pb

# It would fetch prices from the network when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = """
[router]
policy = "ladder:small>big"
[[arms]]
id = "small"
endpoints = ["eu", "us"]
input_usd_per_million = 1000.0
output_usd_per_million = 2000.0
[[arms]]
id = "big"
"""
MESSAGES = [{"role": "user", "content": "fix the parser"}]
CALLS = {"input_tokens": 10, "output_tokens": 20}
"""What LiteLLM counts for its own answers."""
sessions = (f"session-{i}" for i in itertools.count())


@pytest.fixture(scope="module")
def litellm():
    import warnings

    with warnings.catch_warnings(action="ignore"):
        return pytest.importorskip("litellm", reason="LiteLLM is not installed: pip install 'pointsman[litellm]'")


@pytest.fixture(scope="module")
def server(serving, tmp_path_factory):
    return serving(tmp_path_factory.mktemp("litellm") / "data", CONFIG)


@pytest.fixture
def client(server):
    with Client(server.grpc, baseline_arm="big") as client:
        yield client


@pytest.fixture(autouse=True)
def _callbacks_end_with_their_test(litellm):
    yield
    litellm.logging_callback_manager._reset_all_callbacks()


def deployment(name, model, arm=None, answer="done", **info):
    params = {"model": f"openai/{model}", "api_key": "none", "mock_response": answer}
    if arm == "big":
        params |= {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002}
    info |= {"id": f"{name}/{model}"} | ({} if arm is None else {"arm": arm})
    return {"model_name": name, "litellm_params": params, "model_info": info}


def connected(litellm, client, *, small="done", big="done"):
    from pointsman.litellm import connect

    router = litellm.Router(
        model_list=[
            deployment("pointsman", "small-us", "small", small, endpoint="us"),
            deployment("pointsman", "small-eu", "small", small, endpoint="eu"),
            deployment("pointsman", "big", "big", big),
            deployment("big-by-name", "big", "big", big),
            deployment("elsewhere", "elsewhere"),
        ],
        num_retries=1,
        retry_after=0,
    )
    connect(router, client)
    return router


def sync_call(router, model, **given):
    return router.completion(model=model, messages=MESSAGES, **given)


def async_call(router, model, **given):
    async def call():
        answer = await router.acompletion(model=model, messages=MESSAGES, **given)
        # LiteLLM tells its callbacks of an answer after it has given it.
        await asyncio.sleep(0.2)
        return answer

    return asyncio.run(call())


@pytest.fixture(params=[sync_call, async_call], ids=["sync", "async"])
def call(request):
    return request.param


def served(answer):
    return answer._hidden_params["model_id"].partition("/")[2]


def told(client, session, tokens):
    """The session, once so many generated tokens have been told of its last attempt."""
    for _ in range(500):
        found = client.get_session(session)
        if found.attempts[-1].outcome.usage.output_tokens >= tokens:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never told: {found}")


def usage(outcome):
    return {name: getattr(outcome.usage, name) for name in CALLS}


def test_a_session_stays_where_pointsman_says_and_its_calls_are_added_up(litellm, client, call):
    router, session = connected(litellm, client), next(sessions)
    features = {"category": "bugfix", "title": {"text": "fix the parser"}}
    metadata = {"session_id": session, "pointsman": {"features": features}}
    for _ in range(3):
        assert served(call(router, "pointsman", metadata=dict(metadata))) == "small-eu", "the arm's first endpoint"
    found = told(client, session, 60)
    (attempt,) = found.attempts
    assert usage(attempt.outcome) == {name: 3 * count for name, count in CALLS.items()}
    assert attempt.outcome.latency_seconds > 0
    # LiteLLM knows no price of the model: it comes from the arm's.
    assert attempt.outcome.cost_usd == pytest.approx(3 * (10 * 0.001 + 20 * 0.002))
    assert not attempt.outcome.HasField("success")
    decision = client.get_decision(attempt.decision_id)
    assert decision.features["category"].category == "bugfix"
    assert "title" not in decision.features or not decision.features["title"].text, "texts are not stored"
    client.reward(session_id=session, success=1.0, final=True)
    assert client.get_session(session).success == 1.0


def test_a_call_without_a_session_is_one(litellm, client, server, call):
    before = server.last_sequence()
    assert served(call(connected(litellm, client), "pointsman")) == "small-eu"
    assert server.last_sequence() > before


def test_dollars_are_litellms_where_it_knows_the_price(litellm, client, call):
    router, session = connected(litellm, client), next(sessions)
    for _ in range(2):
        call(router, "big-by-name", metadata={"session_id": session})
    assert told(client, session, 40).attempts[0].outcome.cost_usd == pytest.approx(2 * (10 * 0.001 + 20 * 0.002))


def test_a_streamed_answer_is_told_when_it_is_over(litellm, client):
    router, session = connected(litellm, client), next(sessions)
    for _ in router.completion("pointsman", MESSAGES, metadata={"session_id": session}, stream=True):
        pass
    assert told(client, session, 1).attempts[0].outcome.usage.input_tokens > 0


def test_an_explicit_pick_is_served_and_told_of(litellm, client, call):
    router, session = connected(litellm, client), next(sessions)
    call(router, "pointsman", metadata={"session_id": session})
    for model in ("big-by-name", "pointsman/big"):
        assert served(call(router, model, metadata={"session_id": session})) == "big"
    attempts = told(client, session, 40).attempts
    assert [each.arm for each in attempts] == ["small", "big"]
    assert attempts[1].reason == SelectReason.SELECT_REASON_PINNED


def test_models_that_are_no_arms_are_none_of_its_business(litellm, client, server, call):
    router, before = connected(litellm, client), server.last_sequence()
    assert served(call(router, "elsewhere")) == "elsewhere"
    with pytest.raises(litellm.BadRequestError, match="no deployment is called 'unheard-of'"):
        call(router, "unheard-of")
    assert server.last_sequence() == before


def test_a_provider_that_fails_is_left_and_the_retry_finds_another_arm(litellm, client, call):
    router, session = connected(litellm, client, small="litellm.RateLimitError"), next(sessions)
    assert served(call(router, "pointsman", metadata={"session_id": session})) == "big"
    left, now = told(client, session, 20).attempts
    assert (left.arm, left.left_reason) == ("small", pb.ESCALATION_REASON_UNAVAILABLE)
    assert left.outcome.success_censored
    assert (now.arm, usage(now.outcome)) == ("big", CALLS)


def test_a_prompt_that_does_not_fit_wants_another_ability(litellm, client, call):
    router, session = connected(litellm, client, small="litellm.ContextWindowExceededError"), next(sessions)
    with pytest.raises(litellm.ContextWindowExceededError):
        call(router, "pointsman", metadata={"session_id": session})
    assert served(call(router, "pointsman", metadata={"session_id": session})) == "big"
    assert client.get_session(session).attempts[0].left_reason == pb.ESCALATION_REASON_CAPABILITY


def test_a_session_that_is_over_goes_on_where_it_was(litellm, client, call):
    router, session = connected(litellm, client), next(sessions)
    call(router, "pointsman", metadata={"session_id": session})
    told(client, session, 20)
    client.reward(session_id=session, success=1.0, final=True)
    assert served(call(router, "pointsman", metadata={"session_id": session})) == "small-eu"
    assert len(told(client, session, 40).attempts) == 1


def test_two_routers_of_one_process_each_tell_their_own(litellm, client, call):
    routers = [connected(litellm, client) for _ in range(2)]
    for router in routers:
        session = next(sessions)
        call(router, "pointsman", metadata={"session_id": session})
        assert usage(told(client, session, 20).attempts[0].outcome) == CALLS


def test_totals_go_on_after_a_restart(litellm, client, call):
    session = next(sessions)
    for calls in (1, 2):
        call(connected(litellm, client), "pointsman", metadata={"session_id": session})
        assert told(client, session, 20 * calls).attempts[0].outcome.usage.input_tokens == 10 * calls


def test_the_baseline_serves_while_the_service_is_away(litellm, serving, tmp_path, call):
    server = serving(tmp_path / "data", CONFIG)
    with Client(server.grpc, retries=0, baseline_arm="big") as client:
        router, session = connected(litellm, client), next(sessions)
        server.kill()
        assert served(call(router, "pointsman", metadata={"session_id": session})) == "big"
        assert served(call(router, "pointsman/small-us", metadata={"session_id": session})) == "small-us"
    with Client(server.grpc, retries=0) as client:
        router = connected(litellm, client)
        assert served(call(router, "big-by-name", metadata={"session_id": session})) == "big", "a pick needs no answer"


def test_deployments_say_which_arm_they_are(litellm, client):
    from pointsman.litellm import connect

    router = litellm.Router(model_list=[deployment("pointsman", "nameless")])
    with pytest.raises(ValueError, match="pointsman/nameless"):
        connect(router, client)
