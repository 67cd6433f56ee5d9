// Files on their way to the canister, in slices, each with its digest, so that one that comes in other bytes is sent again.
// An upload that was cut off goes on where the canister has confirmed it.
import { signal, type Signal } from "@preact/signals";
import { call, CallError, canisterPath, isForNow, messageOf, request, secondsToWait, sleep, type Wait, waitFor } from "./api";
import { toBase64, toHex } from "./bytes";
import type { FileDetailsRecord } from "./interface";

const SLICE = 8 * 1024 * 1024;
const MOST_TRIES = 6;
const SEND_AGAIN = "send it again"; // what the server says of a slice that came in other bytes
const MOST_HASHED = 32 * SLICE; // of what is there already: a browser hashes it in memory, as a whole

export interface Upload {
  id: number;
  target: string;
  size: number;
  sent: Signal<number>;
  cycles: Signal<number>;
  state: Signal<"looking" | "sending" | "waiting" | "complete" | "stopped" | "failed">;
  problem: Signal<string>;
  /** While the server is busy. */
  wait: Signal<Wait | null>;
  stop: () => void;
}

export const uploads = signal<Upload[]>([]);
let n = 0;

export const isUnderWay = (one: Upload): boolean => ["looking", "sending", "waiting"].includes(one.state.value);

/** Send a file; the promise ends with the upload, and is true when all of it is there. */
export async function send(file: Blob, target: string): Promise<boolean> {
  const abort = new AbortController();
  const one: Upload = {
    id: n++,
    target,
    size: file.size,
    sent: signal(0),
    cycles: signal(0),
    state: signal("looking"),
    problem: signal(""),
    wait: signal(null),
    stop: () => abort.abort(),
  };
  uploads.value = [one, ...uploads.value];
  try {
    await sendSlices(file, one, abort.signal);
    one.state.value = "complete";
    return true;
  } catch (error) {
    const isStopped = error instanceof DOMException && error.name === "AbortError";
    one.state.value = isStopped ? "stopped" : "failed";
    one.problem.value = isStopped ? "" : messageOf(error);
    return false;
  }
}

async function sendSlices(file: Blob, one: Upload, abort: AbortSignal): Promise<void> {
  const path = pathOf(one.target);
  let at = await confirmed(one.target, file, abort);
  one.sent.value = at;
  one.state.value = "sending";
  for (let tries = 0; at < file.size; ) {
    const end = Math.min(file.size, at + SLICE);
    try {
      const body = await file.slice(at, end).arrayBuffer();
      const response = await request(path, { method: "PUT", body, headers: await headersOf(body, at, file.size), signal: abort });
      const told = (await response.json()) as { Err?: { Other?: string }; reject_message?: string };
      if (!response.ok) {
        const why = told.Err?.Other ?? told.reject_message ?? response.statusText;
        throw new CallError(why, "Err", response.status, null, "", secondsToWait(response.headers));
      }
      at = end;
      tries = 0;
      one.cycles.value += Number(response.headers.get("x-ic-cycles") ?? 0);
      one.sent.value = at;
      one.state.value = "sending";
    } catch (error) {
      if (isForNow(error)) {
        one.state.value = "waiting";
        await waitFor(error, (wait) => (one.wait.value = wait), abort);
        one.state.value = "sending";
        continue;
      }
      const isLost = error instanceof CallError && (error.kind === "network" || error.message.includes(SEND_AGAIN));
      if (!isLost || ++tries > MOST_TRIES) throw error;
      one.state.value = "waiting";
      await sleep(500 * 2 ** tries);
      at = await confirmed(one.target, file, abort).catch(() => at); // the reply was lost, not the slice, perhaps
      one.sent.value = at;
    }
  }
}

const pathOf = (target: string): string => canisterPath(`files/${target.split("/").map(encodeURIComponent).join("/")}`);

/** Of a slice: where it belongs, and its digest, where this page may make one (not over plain HTTP by a name). */
async function headersOf(body: ArrayBuffer, at: number, size: number): Promise<Record<string, string>> {
  const headers = {
    "Content-Range": `bytes ${at}-${at + body.byteLength - 1}/${size}`,
    "Content-Type": "application/octet-stream",
  };
  if (!(crypto.subtle as SubtleCrypto | undefined)) return headers;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", body));
  return { ...headers, "Content-Digest": `sha-256=:${toBase64(digest)}:` };
}

/** Bytes that are there already and are those of this file: their hash says so, or the first and last of them. 0: begin anew. */
async function confirmed(target: string, file: Blob, abort: AbortSignal): Promise<number> {
  let there: FileDetailsRecord;
  try {
    there = (await call("uploaded_file_details", { filename: target }, { abort })).value;
  } catch (error) {
    if (error instanceof CallError && error.kind === "Err") return 0;
    throw error;
  }
  const size = Number(there.filesize);
  if (size === 0 || size > file.size) return 0;
  if (size <= MOST_HASHED && (crypto.subtle as SubtleCrypto | undefined)) {
    const hash = await crypto.subtle.digest("SHA-256", await file.slice(0, size).arrayBuffer());
    return toHex(new Uint8Array(hash)) === there.filesha256 ? size : 0;
  }
  const places = [0, Math.max(0, size - SLICE)];
  for (const at of places) if (!(await isSame(target, file, at, Math.min(size, at + SLICE), abort))) return 0;
  return size;
}

/** Does the canister have the same bytes from `first` to `end`? */
async function isSame(target: string, file: Blob, first: number, end: number, abort: AbortSignal): Promise<boolean> {
  const range = { Range: `bytes=${first}-${end - 1}` };
  const response = await request(pathOf(target), { headers: range, signal: abort });
  if (response.status !== 206) return false;
  const [there, here] = [await response.arrayBuffer(), await file.slice(first, end).arrayBuffer()].map((one) => new Uint8Array(one));
  return there!.length === here!.length && there!.every((byte, at) => byte === here![at]);
}
