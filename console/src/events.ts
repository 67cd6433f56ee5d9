// What happens at the canister, as the server tells it line by line. One stream serves all pages that watch, and none is
// open while nobody looks: a browser has six connections to a server, over all its tabs. Where no stream can be had, since
// something on the way holds it back or the caller has too many, the page asks for a line from time to time.
import { effect, signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { canister, canisterPath, CallError, linesOf, parse, request, sleep } from "./api";
import type { CallLogEntry } from "./interface";

const SHORTEST_MS = 500;
const LONGEST_MS = 15_000;
const FIRST_LINE_MS = 6000; // a stream begins with a line at once
const POLL_MS = 5000;
const POLLS = 12; // until a stream is tried again

export interface Report {
  model: string | null;
  reason?: string;
  exact: { is_exact: boolean; why: string };
  threads: { count: number; why: string };
  memory: { slots: number; context: number; kv_bytes_per_token: number };
  now: {
    resident: number;
    running: number;
    waiting: number;
    parked: number;
    parked_bytes: number;
    kv_tokens: number;
    slots: { state: "running" | "resident" | "free"; tokens: number }[];
  };
  speed: { prompt_tokens_per_second: number; answer_tokens_per_second: number; longest_pause_ms: number };
  total: {
    row_steps: number;
    rows: number;
    prompt_tokens: number;
    busy_seconds: number;
    cancelled: number;
    reused_tokens: { slot: number; memory: number; disk: number; shared: number };
  };
  limits?: Record<string, number | null>;
  uptime_seconds?: number;
}

export interface Work {
  running: { caller: string; method: string; phase: string; seconds: number }[];
  waiting: { caller: string; calls: number }[];
}

export interface Happening {
  at: number;
  calls: CallLogEntry[];
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
let polls = 0; // that are left, where there was no stream

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
  let at = last ? Number(last.at) : null;
  let wait = SHORTEST_MS;
  const pathWith = (more: string): string =>
    canisterPath(`events?${[...(at === null ? [] : [`since=${at}`]), ...(more ? [more] : [])].join("&")}`);
  const hear = (line: string): boolean => {
    const one = parse(line) as Happening;
    if (one.end) return false;
    at = Number(one.at);
    wait = SHORTEST_MS;
    last = one;
    silence.value = null;
    for (const heard of [...listeners]) heard(one);
    return true;
  };
  while (!abort.aborted) {
    try {
      if (polls > 0) {
        const response = await request(pathWith("stream=false"), { signal: abort });
        if (!response.ok) throw await refused(response);
        hear(await response.text());
        polls--;
        await sleep(POLL_MS);
        continue;
      }
      polls = (await heardStream(pathWith(""), hear, abort)) ? 0 : POLLS;
      if (polls) continue;
    } catch (error) {
      if (abort.aborted) return;
      if (error instanceof CallError && error.status === 429) polls = POLLS;
      else silence.value = error;
      if (error instanceof CallError && error.isDenied) return;
    }
    await sleep(wait * (0.5 + Math.random()));
    wait = Math.min(LONGEST_MS, 2 * wait);
  }
}

/** Hear a stream to its end. False: nothing came, as where something on the way waits for all of it. */
async function heardStream(path: string, hear: (line: string) => boolean, abort: AbortSignal): Promise<boolean> {
  const own = new AbortController();
  const end = (): void => own.abort();
  abort.addEventListener("abort", end);
  const timer = setTimeout(end, FIRST_LINE_MS);
  let hasBegun = false;
  try {
    const response = await request(path, { signal: own.signal });
    if (!response.ok) throw await refused(response);
    for await (const line of linesOf(response)) {
      clearTimeout(timer);
      hasBegun = true;
      if (!hear(line)) break;
    }
  } catch (error) {
    if (hasBegun || abort.aborted || !(error instanceof DOMException)) throw error;
    return false;
  } finally {
    clearTimeout(timer);
    abort.removeEventListener("abort", end);
  }
  return hasBegun;
}

async function refused(response: Response): Promise<CallError> {
  const body = (await response.json().catch(() => ({}))) as { Err?: { Other?: string }; reject_message?: string };
  const kind = body.Err ? "Err" : "reject";
  return new CallError(body.Err?.Other ?? body.reject_message ?? response.statusText, kind, response.status);
}
