// Requests to the server that sent this page. An API key travels in a header alone; there are no cookies.
import { signal } from "@preact/signals";
import { t } from "./i18n";
import type { Methods } from "./interface";

const KEY = "canister.key";
const LONGEST_WAIT_SECONDS = 3600;
export const LINES = "application/x-ndjson";

export const key = signal(stored(sessionStorage) ?? stored(localStorage) ?? "");
export const isOnline = signal(true);
/** How often a server that was away has come back. */
export const returns = signal(0);
export const canister = signal("llama_cpp");
/** Why the last key did not count; empty: it does, as far as is known. */
export const refusal = signal("");

function stored(place: Storage): string | null {
  try {
    return place.getItem(KEY);
  } catch {
    return null;
  }
}

export interface Cost {
  instructions: number;
  cycles: number;
  /** null: instructions are counted and not limited. */
  limit: number | null;
}

export interface Reply<T> {
  value: T;
  cost: Cost | null;
  ms: number;
}

/** Err: the method refused. reject: the call failed as a whole and changed nothing. network: nobody knows. */
export type Kind = "Err" | "reject" | "network" | "http";

export class CallError extends Error {
  constructor(
    message: string,
    readonly kind: Kind,
    readonly status = 0,
    readonly cost: Cost | null = null,
    readonly requestId = "",
    readonly retrySeconds = 0,
  ) {
    super(message);
  }

  /** The caller is known, and may not call this. */
  get isDenied(): boolean {
    return this.status === 403 || (this.status === 401 && this.kind === "Err");
  }
}

/** Integers that a double cannot hold become BigInt. */
export function parse(text: string): unknown {
  return JSON.parse(text, function (_key, value: unknown, context?: { source: string }) {
    const isRounded = typeof value === "number" && !Number.isSafeInteger(value);
    return isRounded && context && /^-?\d+$/.test(context.source) ? BigInt(context.source) : value;
  } as (key: string, value: unknown) => unknown);
}

/** JSON of any value of an answer; 64-bit integers as texts, which the server takes too. */
export const toJson = (value: unknown, indent?: number): string =>
  JSON.stringify(value, (_key, v: unknown) => (typeof v === "bigint" ? v.toString() : v), indent);

export function keepKey(text: string, isKept: boolean): void {
  sessionStorage.setItem(KEY, text);
  if (isKept) localStorage.setItem(KEY, text);
  else localStorage.removeItem(KEY);
  refusal.value = "";
  key.value = text;
}

export function forgetKey(why = ""): void {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  refusal.value = why;
  key.value = "";
}

/** Fetch from this server. CallError of kind network when nothing answers; an abort stays an AbortError. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.value) headers.set("Authorization", `Bearer ${key.value}`);
  try {
    const response = await fetch(path, { cache: "no-store", credentials: "omit", ...init, headers });
    const wasAway = !isOnline.value;
    isOnline.value = true;
    if (wasAway) returns.value++;
    return response;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    isOnline.value = false;
    throw new CallError(t("The server does not answer."), "network");
  }
}

export const canisterPath = (rest: string): string => `canisters/${encodeURIComponent(canister.value)}/${rest}`;

interface Options {
  abort?: AbortSignal;
  verb?: string;
}

/** What is behind the name of a method in a call of it. */
type Given<M extends keyof Methods> = Methods[M]["arg"] extends undefined
  ? [arg?: undefined, options?: Options]
  : [arg: Methods[M]["arg"], options?: Options];

/** Call a method of the canister. Raises CallError. */
export function call<M extends keyof Methods>(method: M, ...given: Given<M>): Promise<Reply<Methods[M]["value"]>> {
  const [arg, options] = given;
  return ask(canisterPath(method), typeof arg === "string" ? toJson(arg) : arg, options);
}

/**
 * Send to a path, a text as it stands and anything else as JSON, and read what comes back: the value in Ok, or the whole
 * document. Raises CallError.
 */
export async function ask<T>(path: string, arg?: unknown, { abort, verb = "POST" }: Options = {}): Promise<Reply<T>> {
  const started = performance.now();
  const init: RequestInit = { method: verb };
  if (abort) init.signal = abort;
  if (arg !== undefined) {
    init.headers = { "Content-Type": "application/json" };
    init.body = typeof arg === "string" ? arg : toJson(arg);
  }
  const response = await request(path, init);
  let text: string;
  try {
    text = await response.text();
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw broken();
  }
  const cost = costOf(response.headers);
  return { value: read<T>(text, response, cost), cost, ms: performance.now() - started };
}

/** Call a method that tells its text while it runs: each piece is given to `heard`, before the answer counts. */
export async function callHeard<M extends "run_update" | "run_query">(
  method: M,
  arg: Methods[M]["arg"],
  heard: (text: string) => void,
  abort: AbortSignal,
): Promise<Reply<Methods[M]["value"]>> {
  const started = performance.now();
  const headers = { "Content-Type": "application/json", Accept: LINES };
  const response = await request(canisterPath(method), { method: "POST", headers, body: toJson(arg), signal: abort });
  let last = "";
  for await (const line of linesOf(response)) {
    const said: unknown = line.startsWith('{"text":') ? JSON.parse(line) : null;
    if (!isObject(said)) last = line;
    else if (!said.echo) heard(String(said.text));
  }
  if (!last) throw broken();
  const cost = costOf(response.headers) ?? costIn(last);
  return { value: read(last, response, cost), cost, ms: performance.now() - started };
}

/** The lines of an answer as they come. CallError of kind network when it breaks off; an abort stays an AbortError. */
export async function* linesOf(response: Response): AsyncGenerator<string> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece: ReadableStreamReadResult<string> | undefined;
    try {
      piece = await reader?.read();
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      throw broken();
    }
    if (!piece || piece.done) break;
    const lines = (rest + piece.value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line) yield line;
  }
  if (rest) yield rest;
}

function broken(): CallError {
  isOnline.value = false;
  return new CallError(t("The connection broke before the answer was complete."), "network");
}

function read<T>(text: string, response: Response, cost: Cost | null): T {
  const fail = (message: string, kind: Kind): never => {
    const id = response.headers.get("x-request-id") ?? "";
    if (response.status === 401 && kind === "reject" && key.value) forgetKey(message);
    throw new CallError(message, kind, response.status, cost, id, secondsToWait(response.headers));
  };
  let body: unknown;
  try {
    body = parse(text);
  } catch {
    return fail(text.slice(0, 300) || response.statusText, "http");
  }
  if (isObject(body)) {
    if ("reject_code" in body) return fail(String(body.reject_message), "reject");
    if ("Err" in body) return fail(errText(body.Err), "Err");
    if ("Ok" in body) return body.Ok as T;
  }
  return body as T;
}

/** How long an answer asks to wait: it tells seconds, or a date. 0: it does not. */
export function secondsToWait(headers: Headers): number {
  const told = headers.get("retry-after") ?? "";
  const seconds = /^\d+$/.test(told) ? Number(told) : Math.ceil((Date.parse(told) - Date.now()) / 1000);
  return seconds > 0 ? Math.min(LONGEST_WAIT_SECONDS, seconds) : 0;
}

function errText(err: unknown): string {
  if (!isObject(err)) return String(err);
  const text = err.Other ?? err.error;
  return String(text || `status ${String(err.StatusCode ?? err.status_code ?? "")}`);
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

function costOf(headers: Headers): Cost | null {
  const instructions = headers.get("x-ic-instructions");
  if (instructions === null) return null;
  const limit = headers.get("x-ic-limit");
  return {
    instructions: Number(instructions),
    cycles: Number(headers.get("x-ic-cycles")),
    limit: limit === null || limit === "none" ? null : Number(limit),
  };
}

/** Of the last line of a stream, whose headers were sent before it was known. */
function costIn(line: string): Cost | null {
  try {
    const { cost } = JSON.parse(line) as { cost?: Cost };
    return cost ?? null;
  } catch {
    return null;
  }
}

export const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

// A server that is busy says how long to wait. Whoever looks may cut that short.

export interface Wait {
  /** What the server said. */
  why: string;
  /** When the next try is made, in ms since 1970. */
  until: number;
  /** Try now. */
  end: () => void;
}

/** Was it refused only for now? Then the server says when to come again. */
export const isForNow = (error: unknown): error is CallError =>
  error instanceof CallError && (error.status === 429 || error.status === 503) && error.retrySeconds > 0;

/** Wait as long as the server asked to, or until `end` is called, or the signal is aborted. */
export async function waitFor(error: CallError, show: (wait: Wait | null) => void, abort?: AbortSignal): Promise<void> {
  await new Promise<void>((end) => {
    const until = Date.now() + 1000 * error.retrySeconds;
    const timer = setTimeout(end, 1000 * error.retrySeconds);
    const stop = (): void => {
      clearTimeout(timer);
      end();
    };
    abort?.addEventListener("abort", stop, { once: true });
    show({ why: error.message, until, end: stop });
    if (abort?.aborted) stop();
  });
  show(null);
}
