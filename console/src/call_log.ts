// What the log of calls tells beside the calls: how many answers they made.
import type { CallLogEntry } from "./interface";

type Run = Pick<CallLogEntry, "caller" | "n_prompt_tokens_decoded" | "n_tokens_generated">;

/**
 * How many answers begin in these calls, the oldest first. An answer begins in the call that takes in the last of a prompt
 * and generates, or in the one behind it, where that call only took in the prompt.
 */
export function answersIn(calls: Run[]): number {
  const isPrompted = new Set<string>(); // callers whose prompt went in, and who wait for the answer
  let n = 0;
  for (const { caller, n_prompt_tokens_decoded, n_tokens_generated } of calls) {
    if (n_tokens_generated === null) continue; // it decodes nothing, or decoded nothing
    if (Number(n_prompt_tokens_decoded)) isPrompted.add(caller);
    if (Number(n_tokens_generated) && isPrompted.delete(caller)) n++;
  }
  return n;
}
