/**
 * The client for Node: what `pointsman/client.py` is for Python.
 *
 * It retries a call that found the service unavailable, or so busy that it says when to come back, with the same
 * request id, so that nothing counts twice however often it is sent. Failed calls reject with a `ConnectError` as it
 * came; `fieldViolations` says which field was wrong.
 *
 * With a `baselineArm`, a `select` that cannot reach the service answers with that arm, reason BASELINE and an empty
 * `decisionId`: the choice is unlogged, and `escalate`, `reportProgress` and `reward` on it do nothing.
 */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import {
  create,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { isOutOfReach, retryMilliseconds } from "./errors.js";
import { type Features, featureValues } from "./features.js";
import {
  EscalateRequestSchema,
  type GetDecisionResponse,
  type GetSessionResponse,
  ProgressAction,
  ProgressSignalsSchema,
  type ReportProgressResponse,
  ReportProgressResponseSchema,
  RewardRequestSchema,
  Routing,
  SelectReason,
  type SelectRequest,
  SelectRequestSchema,
  type SelectResponse,
  SelectResponseSchema,
} from "./gen/pointsman/v1/routing_pb.js";
import { isLoopback } from "./loopback.js";

export { fieldViolations } from "./errors.js";
export { type Feature, type Features, Text } from "./features.js";

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1000;
/** Node's timers know no longer time. */
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;

/** What a client is told; every setting has a default. */
export interface Settings {
  /** The router of all calls; empty means `default`. */
  router?: string;
  /** Deadline of each call in milliseconds, its retries included; above 0, 2 ** 31 - 1 at most. 5000. */
  timeoutMs?: number;
  /** How often a call that found the service unavailable, or too busy, is sent again at most; 0 or more. 4. */
  retries?: number;
  /** The arm to run while the service is out of reach. Without one the error is thrown. */
  baselineArm?: string;
  /** Bearer token, where the server asks for one. */
  token?: string;
  /** TLS: the authorities in PEM, one of which the server's certificate has to be of. Without `tls`: plaintext. */
  tls?: { ca?: string | Uint8Array; cert?: string | Uint8Array; key?: string | Uint8Array };
}

type Rest<Schema extends DescMessage, Given extends string> = Omit<
  Exclude<MessageInitShape<Schema>, MessageShape<Schema>>,
  Given | "$typeName" | "$unknown" | "router"
>;
/** The rest of a `SelectRequest`. */
export type SelectOptions = Rest<typeof SelectRequestSchema, "features">;
/** The rest of an `EscalateRequest`, its features as plain values. */
export type EscalateOptions = Rest<typeof EscalateRequestSchema, "features" | "decisionId" | "sessionId"> & {
  features?: Features;
};
/** A `RewardRequest`, by `decisionId` or by `sessionId`. */
export type RewardOptions = Rest<typeof RewardRequestSchema, never>;
/** A choice, or its `decisionId`. */
export type Choice = SelectResponse | string;

/** A client of every service of Pointsman; `close` it at the end, or Node stays up for the connection. */
export class Client {
  readonly #router: string;
  readonly #timeoutMs: number;
  readonly #retries: number;
  readonly #baselineArm: string | undefined;
  readonly #headers: Record<string, string>;
  readonly #session: Http2SessionManager;
  readonly #transport: Transport;
  #closed = false;

  /**
   * `target` is HOST:PORT. Throws RangeError for a setting outside its domain, and Error where a token would travel in
   * plaintext beyond this machine.
   */
  constructor(target = "127.0.0.1:50051", settings: Settings = {}) {
    const { router = "", timeoutMs = 5000, retries = 4, baselineArm, token = "", tls } = settings;
    if (!(timeoutMs > 0 && timeoutMs <= LONGEST_TIMEOUT_MS)) {
      throw new RangeError(`timeoutMs is ${timeoutMs}: must be above 0, and ${LONGEST_TIMEOUT_MS} at most`);
    }
    if (!(retries >= 0)) throw new RangeError(`retries is ${retries}: must be 0 or more`);
    if (!/^[\x20-\x7e]*$/.test(token)) throw new RangeError("token holds characters that no header may have");
    const url = new URL(`${tls ? "https" : "http"}://${target}`);
    if (token && !tls && !isLoopback(url.hostname)) {
      throw new Error(`a token is not sent in plaintext to ${target}: give tls`);
    }
    this.#router = router;
    this.#timeoutMs = timeoutMs;
    this.#retries = retries;
    this.#baselineArm = baselineArm;
    this.#headers = token ? { authorization: `Bearer ${token}` } : {};
    this.#session = new Http2SessionManager(url.origin, undefined, tls as Record<string, string> | undefined);
    this.#transport = createGrpcTransport({ baseUrl: url.origin, sessionManager: this.#session });
  }

  /** Closes the connection; later calls are rejected. */
  close(): void {
    this.#closed = true;
    this.#session.abort();
  }

  /**
   * The arm for a session: a new decision, or the one that stands. A plain string in `features` is a category, a `Text`
   * is text, numbers in an array are an embedding, undefined is left out; TypeError for anything else.
   */
  async select(features: Features = {}, options: SelectOptions = {}): Promise<SelectResponse> {
    const request = create(SelectRequestSchema, { ...options, router: this.#router, features: featureValues(features) });
    try {
      return await this.call(Routing.method.select, request);
    } catch (error) {
      const fallback = this.#baseline(request);
      if (fallback === undefined || !isOutOfReach(error)) throw error;
      return fallback;
    }
  }

  /** Leaves an attempt. The next choice, or undefined when exhausted, and for an unlogged choice. */
  async escalate(choice: Choice, options: EscalateOptions): Promise<SelectResponse | undefined> {
    const decisionId = decisionOf(choice);
    if (!decisionId) return undefined;
    const features = featureValues(options.features ?? {});
    const request = { ...options, router: this.#router, decisionId, features };
    const { outcome } = await this.call(Routing.method.escalate, request);
    return outcome.case === "next" ? outcome.value : undefined;
  }

  /** Tells how an attempt is going, counted from its beginning, and gets advice. CONTINUE for an unlogged choice. */
  async reportProgress(
    choice: Choice,
    signals: MessageInitShape<typeof ProgressSignalsSchema>,
    requestId = "",
  ): Promise<ReportProgressResponse> {
    const decisionId = decisionOf(choice);
    if (!decisionId) return create(ReportProgressResponseSchema, { action: ProgressAction.CONTINUE, propensity: 1 });
    return this.call(Routing.method.reportProgress, { router: this.#router, decisionId, requestId, signals });
  }

  /**
   * Reports an outcome or a part of it; the revision under which it was taken. Error unless exactly one of `decisionId`
   * and `sessionId` is given; undefined, and nothing sent, when it is an unlogged choice's, which is empty.
   */
  async reward(outcome: RewardOptions): Promise<bigint | undefined> {
    const { decisionId, sessionId } = outcome;
    if ((decisionId === undefined) === (sessionId === undefined)) {
      throw new Error("give decisionId or sessionId: totals are the attempt's by one, the session's by the other");
    }
    if (!decisionId && !sessionId) return undefined;
    return (await this.call(Routing.method.reward, { ...outcome, router: this.#router })).acceptedRevision;
  }

  /** Everything known about a session. */
  getSession(sessionId: string): Promise<GetSessionResponse> {
    return this.call(Routing.method.getSession, { router: this.#router, sessionId });
  }

  /** Everything known about a decision, and whether the log confirms it. */
  getDecision(decisionId: string): Promise<GetDecisionResponse> {
    return this.call(Routing.method.getDecision, { router: this.#router, decisionId });
  }

  /**
   * Sends a request to a method, such as `Admin.method.listArms`, until it is answered, refused, or out of retries or
   * time. A change without a request id gets one, so that sending it again is safe. The router is as in `request`.
   */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
  ): Promise<MessageShape<O>> {
    const message = repeatable(method.input, request);
    const deadline = performance.now() + this.#timeoutMs;
    for (let retry = 0; ; retry++) {
      if (this.#closed) throw new Error("the client is closed");
      try {
        // Whole milliseconds: grpc-timeout knows no fractions.
        const left = Math.max(Math.ceil(deadline - performance.now()), 1);
        return (await this.#transport.unary(method, undefined, left, this.#headers, message)).message;
      } catch (error) {
        const pause = pauseBefore(retry, error);
        if (retry >= this.#retries || pause === undefined || pause >= deadline - performance.now()) throw error;
        await sleep(pause);
      }
    }
  }

  /** The answer without the service; undefined where there is no baseline or the request itself forbids it. */
  #baseline(request: SelectRequest): SelectResponse | undefined {
    const arm = this.#baselineArm;
    if (arm === undefined) return undefined;
    const forbidden = request.deny.includes(arm) || (request.allow.length > 0 && !request.allow.includes(arm));
    if (forbidden && !request.pinnedArm) return undefined;
    return create(SelectResponseSchema, {
      sessionId: request.sessionId,
      arm: request.pinnedArm || arm,
      propensity: 1,
      reason: SelectReason.BASELINE,
      attempt: 1,
    });
  }
}

function decisionOf(choice: Choice): string {
  return typeof choice === "string" ? choice : choice.decisionId;
}

/** A message of its own, with a request id where it could have one and has none. */
function repeatable<I extends DescMessage>(schema: I, request: MessageInitShape<I>): MessageInitShape<I> {
  const { requestId } = request as { requestId?: string };
  if (!schema.field["requestId"] || requestId) return request;
  return { ...request, requestId: randomUUID() };
}

/**
 * Milliseconds before sending again, doubling up to a bound, less up to a half by chance, and later than a busy server
 * asks: else all whom it sent away would come back at the same moment. Undefined when the error stands.
 */
function pauseBefore(retry: number, error: unknown): number | undefined {
  const asked = retryMilliseconds(error);
  // The service itself never answers ABORTED: Connect says so of a connection that broke, as grpc says UNAVAILABLE.
  const { code } = ConnectError.from(error);
  if (asked === undefined && code !== Code.Unavailable && code !== Code.Aborted) return undefined;
  const pause = Math.min(FIRST_PAUSE_MS * 2 ** retry, LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2);
  return pause + Math.max(asked ?? 0, 0);
}
