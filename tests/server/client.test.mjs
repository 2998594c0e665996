// The TypeScript client against a real server, as `test_typescript.py` runs it: the built package lies beside this file.
import assert from "node:assert/strict";
import { createServer } from "node:http2";
import { test } from "node:test";

import { Code, ConnectError } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { Client, fieldViolations, Text } from "./dist/client.js";
import { RetryInfoSchema } from "./dist/gen/google/rpc/error_details_pb.js";
import { Admin } from "./dist/gen/pointsman/v1/admin_pb.js";
import { EscalationReason, ProgressAction, Routing, SelectReason } from "./dist/gen/pointsman/v1/routing_pb.js";

async function connected(target, settings, run) {
  const client = new Client(target, settings);
  try {
    await run(client);
  } finally {
    client.close();
  }
}

const { SERVER, SECURE, CA, TOKEN, NOWHERE } = process.env;

test("a whole session", () =>
  connected(SERVER, {}, async (client) => {
    const features = { files: 3, docs: false, kind: "bugfix", title: new Text("fix it"), vector: [1, 2.5], none: undefined };
    const first = await client.select(features, { sessionId: "whole", deny: ["c"] });
    assert.equal((await client.select({}, { sessionId: "whole", deny: ["c"] })).reason, SelectReason.STICKY);
    const advice = await client.reportProgress(first, { turns: 2n, toolCalls: 5n });
    assert.equal(advice.action, ProgressAction.CONTINUE);
    const reason = EscalationReason.VERIFIED_FAILURE;
    const second = await client.escalate(first, { reason, outcome: { costUsd: 0.25, usage: { inputTokens: 9n } } });
    assert.deepEqual(new Set([first.arm, second.arm]), new Set(["a", "b"]));
    assert.equal(await client.escalate(second, { reason }), undefined, "no arm is left");
    assert.ok((await client.reward({ sessionId: "whole", success: 0, costUsd: 1, final: true })) > 0n);
    const known = await client.getDecision(first.decisionId);
    assert.ok(known.confirmed);
    // Text is not stored unless the router says so.
    assert.deepEqual(Object.keys(known.features).sort(), ["docs", "files", "kind", "vector"]);
    const session = await client.getSession("whole");
    assert.ok(session.final && session.success === 0 && session.costUsd === 1);
    assert.equal((await client.call(Admin.method.listArms, {})).arms.length, 3);
  }));

test("a repeat is answered as before and counts once", () =>
  connected(SERVER, {}, async (client) => {
    const options = { requestId: "mine" };
    const first = await client.select({ n: 1 }, options);
    assert.deepEqual(await client.select({ n: 1 }, options), first);
    await assert.rejects(client.select({ n: 2 }, options), { code: Code.AlreadyExists });
  }));

test("bad and hostile values are refused by name, and the service stays up", () =>
  connected(SERVER, { baselineArm: "a" }, async (client) => {
    const hostile = [{ n: NaN }, { n: -Infinity }, { s: "x".repeat(100_000) }, { vector: [] }, { vector: [1, Infinity] }];
    for (const features of hostile) {
      await assert.rejects(client.select(features), (error) => {
        assert.equal(error.code, Code.InvalidArgument);
        assert.match(fieldViolations(error)[0].field, /features/);
        return true;
      });
    }
    await assert.rejects(client.reward({ decisionId: "nobody", costUsd: -1 }), (error) => {
      assert.deepEqual(fieldViolations(error).map(({ field }) => field), ["cost_usd"]);
      return true;
    });
    await assert.rejects(client.getDecision("nobody"), { code: Code.NotFound });
    for (const odd of [null, {}, ["x"], 1n]) await assert.rejects(client.select({ odd }), /feature 'odd'/);
    const { decisionId } = await client.select(JSON.parse('{"constructor": 1, "toString": "x"}'));
    assert.deepEqual(Object.keys((await client.getDecision(decisionId)).features).sort(), ["constructor", "toString"]);
  }));

test("settings are checked, and a token does not travel in plaintext", async () => {
  for (const wrong of [{ timeoutMs: 0 }, { timeoutMs: NaN }, { timeoutMs: 3e9 }, { retries: -1 }, { token: "a\n" }]) {
    assert.throws(() => new Client(SERVER, wrong), RangeError);
  }
  for (const target of ["example.org:1", "10.0.0.1:1", "[::2]:1"]) {
    assert.throws(() => new Client(target, { token: "secret" }), /plaintext/);
  }
  const closed = new Client(SERVER);
  closed.close();
  await assert.rejects(closed.select({}), /closed/);
  for (const target of ["localhost:1", "127.0.0.2:1", "[::1]:1"]) new Client(target, { token: "secret" }).close();
  await connected(SERVER, {}, async (client) => {
    for (const ids of [{}, { decisionId: "d", sessionId: "s" }]) {
      await assert.rejects(client.reward({ success: 1, ...ids }), /decisionId or sessionId/);
    }
  });
});

test("TLS and a token", async () => {
  await connected(SECURE, { token: TOKEN, tls: { ca: CA } }, async (client) => assert.equal((await client.select()).arm, "a"));
  await connected(SECURE, { tls: { ca: CA } }, async (client) => {
    await assert.rejects(client.select(), { code: Code.Unauthenticated });
  });
});

test("where nobody listens the baseline serves, unlogged", () =>
  connected(NOWHERE, { baselineArm: "old", retries: 1 }, async (client) => {
    const choice = await client.select({ kind: "docs" }, { sessionId: "s" });
    assert.deepEqual([choice.arm, choice.reason, choice.decisionId], ["old", SelectReason.BASELINE, ""]);
    assert.equal(await client.escalate(choice, { reason: EscalationReason.STRUGGLING }), undefined);
    assert.equal((await client.reportProgress(choice, {})).action, ProgressAction.CONTINUE);
    assert.equal(await client.reward({ decisionId: choice.decisionId, success: 1 }), undefined);
    assert.equal((await client.select({}, { pinnedArm: "mine" })).arm, "mine");
    for (const rules of [{ deny: ["old"] }, { allow: ["new"] }]) {
      await assert.rejects(client.select({}, rules), { code: Code.Unavailable });
    }
  }));

test("a server that is killed: the baseline serves", () =>
  connected(SERVER, { baselineArm: "old" }, async (client) => {
    assert.notEqual((await client.select()).decisionId, "");
    process.kill(Number(process.env.SERVER_PID), "SIGKILL");
    assert.equal((await client.select()).reason, SelectReason.BASELINE);
  }));

test("what is sent again has the same request id, no sooner than asked and not for ever", async () => {
  const asked = [];
  const busy = { desc: RetryInfoSchema, value: { retryDelay: { seconds: 0n, nanos: 200_000_000 } } };
  const errors = [
    new ConnectError("down", Code.Unavailable),
    new ConnectError("busy", Code.ResourceExhausted, undefined, [busy]),
  ];
  const reward = ({ requestId }) => {
    asked.push({ requestId, at: performance.now() });
    const error = errors.shift();
    if (error) throw error;
    return { acceptedRevision: 7n };
  };
  const server = createServer(connectNodeAdapter({ routes: (router) => router.service(Routing, { reward }) }));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  await connected(`127.0.0.1:${server.address().port}`, { retries: 2 }, async (client) => {
    assert.equal(await client.reward({ decisionId: "d", success: 1 }), 7n);
    assert.equal(asked.length, 3);
    assert.equal(new Set(asked.map(({ requestId }) => requestId)).size, 1);
    assert.ok(asked[0].requestId && asked[2].at - asked[1].at >= 200);
    errors.push(new ConnectError("too large", Code.ResourceExhausted));
    await assert.rejects(client.reward({ decisionId: "d" }), { code: Code.ResourceExhausted });
    assert.equal(asked.length, 4, "an answer is not asked for again");
    errors.push(...Array.from({ length: 9 }, () => new ConnectError("down", Code.Unavailable)));
    await assert.rejects(client.reward({ decisionId: "d" }), { code: Code.Unavailable });
    assert.equal(asked.length, 7);
  });
  await new Promise((resolve) => server.close(resolve));
});
