// What happens at the canister, as the server tells it line by line. One stream serves all pages that watch, and none is
// open while nobody looks: a browser has six connections to a server, over all its tabs.
import { effect, signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { canister, canisterPath, CallError, linesOf, parse, request, sleep } from "./api";

const SHORTEST_MS = 500;
const LONGEST_MS = 15_000;

export interface LoggedCall {
  id: number | bigint;
  caller: string;
  method: string;
  timestamp_ns: bigint | number;
  outcome: string;
  instructions: number | bigint;
  cycles: number | bigint;
  limit: number | bigint | null;
  parts: { part: string; instructions: number | bigint }[];
}

export interface Report {
  model: string | null;
  reason?: string;
  exact: { is_exact: boolean; why: string };
  threads: { count: number; why: string };
  memory: { slots: number; context: number; kv_bytes_per_token: number };
  now: { resident: number; running: number; waiting: number; parked: number; parked_bytes: number };
  total: { row_steps: number; rows: number; prompt_tokens: number; busy_seconds: number; cancelled: number };
  limits?: Record<string, number | null>;
  uptime_seconds?: number;
}

export interface Work {
  running: { caller: string; method: string; phase: string; seconds: number }[];
  waiting: { caller: string; calls: number }[];
}

export interface Happening {
  at: number;
  calls: LoggedCall[];
  missed?: number;
  engine?: Report;
  work?: Work;
  end?: boolean;
}

/** Why nothing is heard; null: something is, or is about to be. */
export const silence = signal<unknown>(null);
const listeners = new Set<(one: Happening) => void>();
let running: AbortController | null = null;
let last: Happening | null = null;

/** Hear what happens while a component is shown. The last known state is told at once. */
export function useHappenings(heard: (one: Happening) => void): void {
  useEffect(() => {
    listeners.add(heard);
    if (last) heard({ ...last, calls: [] });
    attend();
    return () => {
      listeners.delete(heard);
      attend();
    };
  }, [canister.value]);
}

function attend(): void {
  const isWanted = listeners.size > 0 && !document.hidden;
  if (isWanted && !running) {
    running = new AbortController();
    void follow(running.signal);
  } else if (!isWanted && running) {
    running.abort();
    running = null;
  }
}

document.addEventListener("visibilitychange", attend);
effect(() => {
  void canister.value; // another canister: another stream
  last = null;
  running?.abort();
  running = null;
  attend();
});

async function follow(abort: AbortSignal): Promise<void> {
  let at: number | null = null;
  let wait = SHORTEST_MS;
  while (!abort.aborted) {
    try {
      const response = await request(canisterPath(`events${at === null ? "" : `?since=${at}`}`), { signal: abort });
      if (!response.ok) throw await refused(response);
      silence.value = null;
      for await (const line of linesOf(response)) {
        const one = parse(line) as Happening;
        if (one.end) break;
        at = Number(one.at);
        wait = SHORTEST_MS;
        last = one;
        for (const heard of [...listeners]) heard(one);
      }
    } catch (error) {
      if (abort.aborted) return;
      silence.value = error;
      if (error instanceof CallError && error.isDenied) return;
    }
    await sleep(wait * (0.5 + Math.random()));
    wait = Math.min(LONGEST_MS, 2 * wait);
  }
}

async function refused(response: Response): Promise<CallError> {
  const body = (await response.json().catch(() => ({}))) as { Err?: { Other?: string }; reject_message?: string };
  const kind = body.Err ? "Err" : "reject";
  return new CallError(body.Err?.Other ?? body.reject_message ?? response.statusText, kind, response.status);
}
