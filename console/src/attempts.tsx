// What a part of a page tries: where it is refused, that is told below it; where only for now, it is tried again.
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { canister, returns } from "./api";
import { type Needed, Problem } from "./widgets";

interface Refused {
  error: unknown;
  again: () => unknown;
}

interface Attempts {
  /** Do something. What was told of an attempt before goes, unless it `keeps` that. False: it was refused. */
  attempt: (act: () => Promise<unknown>, keeps?: boolean) => Promise<boolean>;
  isRefused: boolean;
  /** What the last one was refused for, if it was. */
  told: ComponentChildren;
}

/** Read what is shown: at once, for another canister or when one of `by` changes, and when a server that was away is back. */
export function useReading(read: () => unknown, by: unknown[] = []): void {
  useEffect(() => void read(), [canister.value, returns.value, ...by]);
}

/** needs: who may do it, for callers who may not. */
export function useAttempts(needs?: Needed): Attempts {
  const refused = useSignal<Refused | null>(null);
  const attempt = async (act: () => Promise<unknown>, keeps = false): Promise<boolean> => {
    if (!keeps) refused.value = null;
    try {
      await act();
      return true;
    } catch (error) {
      refused.value = { error, again: () => attempt(act) };
      return false;
    }
  };
  const told = refused.value ? <Problem error={refused.value.error} needs={needs} again={refused.value.again} /> : null;
  return { attempt, isRefused: refused.value !== null, told };
}
