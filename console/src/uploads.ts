// Files on their way to the canister, in slices. An upload that was cut off goes on where the canister has confirmed it.
import { signal, type Signal } from "@preact/signals";
import { call, CallError, canisterPath, messageOf, request, sleep } from "./api";

const SLICE = 8 * 1024 * 1024;
const MOST_TRIES = 6;

export interface Upload {
  id: number;
  target: string;
  size: number;
  sent: Signal<number>;
  cycles: Signal<number>;
  state: Signal<"looking" | "sending" | "waiting" | "complete" | "stopped" | "failed">;
  problem: Signal<string>;
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
  const path = canisterPath(`files/${one.target.split("/").map(encodeURIComponent).join("/")}`);
  let at = await confirmed(one.target, file, abort);
  one.sent.value = at;
  one.state.value = "sending";
  for (let tries = 0; at < file.size; ) {
    const end = Math.min(file.size, at + SLICE);
    try {
      const response = await request(path, {
        method: "PUT",
        body: file.slice(at, end),
        headers: { "Content-Range": `bytes ${at}-${end - 1}/${file.size}`, "Content-Type": "application/octet-stream" },
        signal: abort,
      });
      if (response.status === 429 || response.status === 503) {
        one.state.value = "waiting";
        await sleep(1000 * Number(response.headers.get("retry-after") ?? 2));
        continue;
      }
      const body = (await response.json()) as { Err?: { Other?: string }; reject_message?: string };
      if (!response.ok) throw new CallError(body.Err?.Other ?? body.reject_message ?? response.statusText, "Err", response.status);
      at = end;
      tries = 0;
      one.cycles.value += Number(response.headers.get("x-ic-cycles") ?? 0);
      one.sent.value = at;
      one.state.value = "sending";
    } catch (error) {
      const isLost = error instanceof CallError && error.kind === "network";
      if (!isLost || ++tries > MOST_TRIES) throw error;
      one.state.value = "waiting";
      await sleep(500 * 2 ** tries);
      at = await confirmed(one.target, file, abort).catch(() => at); // the reply was lost, not the slice, perhaps
      one.sent.value = at;
    }
  }
}

/** Bytes that are there already and are those of this file: their hash says so. 0: begin anew. */
async function confirmed(target: string, file: Blob, abort: AbortSignal): Promise<number> {
  let there: { filesize: number | bigint; filesha256: string };
  try {
    there = (await call<typeof there>("uploaded_file_details", { filename: target }, { abort })).value;
  } catch (error) {
    if (error instanceof CallError && error.kind === "Err") return 0;
    throw error;
  }
  const size = Number(there.filesize);
  if (size === 0 || size > file.size || !crypto.subtle) return 0;
  const hash = await crypto.subtle.digest("SHA-256", await file.slice(0, size).arrayBuffer());
  const hex = Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex === there.filesha256 ? size : 0;
}
