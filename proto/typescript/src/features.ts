/** Plain values to features. */
import type { MessageInitShape } from "@bufbuild/protobuf";

import type { FeatureValueSchema } from "./gen/pointsman/v1/routing_pb.js";

type FeatureInit = MessageInitShape<typeof FeatureValueSchema>;

/** Marks a string as free text; a plain string is a category. */
export class Text {
  constructor(readonly value: string) {}
}

/** A number, a flag, a category, free text or an embedding. */
export type Feature = number | boolean | string | Text | readonly number[];

/** What is known of a session, by name; undefined is absent. */
export type Features = Readonly<Record<string, Feature | undefined>>;

/** Features as messages, by name. TypeError, naming it, for one of no kind. */
export function featureValues(features: Features): Record<string, FeatureInit> {
  const known = Object.entries(features).filter(([, value]) => value !== undefined);
  return Object.fromEntries(known.map(([name, value]) => [name, featureValue(name, value)]));
}

function featureValue(name: string, value: unknown): FeatureInit {
  if (typeof value === "boolean") return { value: { case: "flag", value } };
  if (typeof value === "number") return { value: { case: "number", value } };
  if (typeof value === "string") return { value: { case: "category", value } };
  if (value instanceof Text) return { value: { case: "text", value: value.value } };
  if (Array.isArray(value) && value.every((item) => typeof item === "number")) {
    return { value: { case: "embedding", value: { values: value } } };
  }
  throw new TypeError(`feature '${name}' is not a number, boolean, string, Text or array of numbers`);
}
