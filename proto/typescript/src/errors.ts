/** What a failed call says, taken out of its status. */
import { Code, ConnectError } from "@connectrpc/connect";

import { BadRequestSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

// The codes by which a service that cannot be reached shows itself; ABORTED is a connection that broke.
const OUT_OF_REACH: readonly Code[] = [Code.Unavailable, Code.DeadlineExceeded, Code.Aborted];

/** Which fields of the request were wrong, and how, in the server's order; empty where the error carries none. */
export function fieldViolations(error: unknown): { field: string; description: string }[] {
  return ConnectError.from(error)
    .findDetails(BadRequestSchema)
    .flatMap((bad) => bad.fieldViolations.map(({ field, description }) => ({ field, description })));
}

/** After how many milliseconds a busy server asks to be called again; undefined where it does not. */
export function retryMilliseconds(error: unknown): number | undefined {
  const delay = ConnectError.from(error).findDetails(RetryInfoSchema)[0]?.retryDelay;
  return delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6;
}

/** Whether the service did not answer, as against answering no; one that is too busy did not. */
export function isOutOfReach(error: unknown): boolean {
  return OUT_OF_REACH.includes(ConnectError.from(error).code) || retryMilliseconds(error) !== undefined;
}
