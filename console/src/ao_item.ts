// Items of AO (ANS-104), signed by the identity of this browser, which is a wallet there: Ed25519.
import { ask, CallError, request, sleep } from "./api";
import { joined, toBase64 } from "./bytes";
import type { Identity } from "./identity";
import { t } from "./i18n";

const ED25519 = 2;
const PROTOCOL: Tag[] = [
  ["Data-Protocol", "ao"],
  ["Variant", "ao.TN.1"],
];
const MOST_LOOKS = 40;

type Bytes = Uint8Array<ArrayBuffer>;
export type Tag = [name: string, value: string];

const utf8 = (text: string): Bytes => new TextEncoder().encode(text);
const hash = async (name: string, bytes: Bytes): Promise<Bytes> => new Uint8Array(await crypto.subtle.digest(name, bytes));

const toBase64Url = (bytes: Bytes): string =>
  toBase64(bytes)
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");

function fromBase64Url(text: string): Bytes {
  const raw = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(raw, (letter) => letter.charCodeAt(0));
}

/** A number in eight bytes, the lowest first. */
function eight(n: number): Bytes {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(n), true);
  return bytes;
}

/** Avro's zigzag varint of a number that is not negative. */
function varint(n: number): Bytes {
  const digits: number[] = [];
  for (n *= 2; n > 0x7f; n = Math.floor(n / 128)) digits.push((n & 0x7f) | 0x80);
  return Uint8Array.from([...digits, n]);
}

function encoded(tags: Tag[]): Bytes {
  const texts = tags.flatMap((tag) => tag.map(utf8));
  return joined([varint(tags.length), ...texts.flatMap((text) => [varint(text.length), text]), Uint8Array.of(0)]);
}

async function deepHash(parts: Bytes[]): Promise<Bytes> {
  let all = await hash("SHA-384", utf8(`list${parts.length}`));
  for (const part of parts) {
    const head = await hash("SHA-384", utf8(`blob${part.length}`));
    const own = await hash("SHA-384", joined([head, await hash("SHA-384", part)]));
    all = await hash("SHA-384", joined([all, own]));
  }
  return all;
}

/** The raw public key, which is the owner of its items. */
const ownerOf = (identity: Identity): Bytes => identity.publicKey.slice(-32);

export const addressOf = async (identity: Identity): Promise<string> => toBase64Url(await hash("SHA-256", ownerOf(identity)));

async function signed(identity: Identity, tags: Tag[], data: string, target = ""): Promise<Bytes> {
  const [owner, raw, body, to] = [ownerOf(identity), encoded(tags), utf8(data), fromBase64Url(target)];
  const anchor = crypto.getRandomValues(new Uint8Array(32)); // so that the same message can be sent again
  const kind = utf8(String(ED25519));
  const message = await deepHash([utf8("dataitem"), utf8("1"), kind, owner, to, anchor, raw, body]);
  const some = (part: Bytes): Bytes => (part.length ? joined([Uint8Array.of(1), part]) : Uint8Array.of(0));
  const head = [Uint8Array.of(ED25519, 0), await identity.sign(message), owner, some(to), some(anchor)];
  return joined([...head, eight(tags.length), eight(raw.length), raw, body]);
}

async function post(item: Bytes): Promise<string> {
  const response = await request("mu", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: item });
  const text = await response.text();
  if (!response.ok) throw new CallError(text.slice(0, 500), "http", response.status);
  return (JSON.parse(text) as { id: string }).id;
}

/** A new process of this identity; its id. Raises CallError. */
export async function spawn(identity: Identity, node: Record<string, string>, name: string): Promise<string> {
  const { address = "", module = "" } = node;
  const own: Tag[] = [["Type", "Process"], ["Module", module], ["Scheduler", address], ["Authority", address]];
  return post(await signed(identity, [...PROTOCOL, ...own, ...(name ? [["Name", name] as Tag] : [])], ""));
}

/** Send a signed message, and wait for what the process makes of it. Raises CallError. */
export async function send<Result>(identity: Identity, process: string, action: string, data: string): Promise<Result> {
  const tags: Tag[] = [...PROTOCOL, ["Type", "Message"], ["Action", action]];
  const id = await post(await signed(identity, tags, data, process));
  for (let n = 0; n < MOST_LOOKS; n++) {
    const path = `cu/result/${id}?process-id=${encodeURIComponent(process)}`;
    const { value } = await ask<Result & { message?: string }>(path, undefined, { verb: "GET" });
    if (value.message === undefined) return value;
    await sleep(250);
  }
  throw new CallError(t("The process has not got to the message yet; it is kept."), "http");
}
