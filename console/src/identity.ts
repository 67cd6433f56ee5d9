// The identity of this browser: an Ed25519 key that no script can read, in the browser's database. It signs messages as
// the IC's agents do; here only the one that signs in.
import { request, CallError } from "./api";
import { joined, toHex } from "./bytes";
import { t } from "./i18n";

const DATABASE = "canister-identity";
const STORE = "keys";
const OWN = "own";
const MINUTES = 4;
const DER = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const DOMAIN = "\x0aic-request";

export interface Identity {
  publicKey: Uint8Array<ArrayBuffer>;
  principal: string;
  sign: (message: Uint8Array<ArrayBuffer>) => Promise<Uint8Array<ArrayBuffer>>;
}

/** The identity that this browser keeps. null: it has none yet. */
export async function kept(): Promise<Identity | null> {
  const pair = (await work("readonly", (store) => store.get(OWN))) as CryptoKeyPair | undefined;
  return pair ? of(pair) : null;
}

/** A new identity in the place of none. Raises an Error where the browser cannot have one. */
export async function make(): Promise<Identity> {
  const subtle = crypto.subtle as SubtleCrypto | undefined;
  if (!subtle) throw new Error(t("A page over plain HTTP by a name has no keys: open it as localhost, or by HTTPS."));
  let pair: CryptoKeyPair;
  try {
    pair = (await subtle.generateKey("Ed25519", false, ["sign", "verify"])) as CryptoKeyPair;
  } catch {
    throw new Error(t("This browser knows no Ed25519 keys; a newer one does."));
  }
  await work("readwrite", (store) => store.put(pair, OWN));
  return of(pair);
}

export const forget = (): Promise<unknown> => work("readwrite", (store) => store.delete(OWN));

async function of(pair: CryptoKeyPair): Promise<Identity> {
  const raw = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  const publicKey = joined([Uint8Array.from(DER), raw]);
  return {
    publicKey,
    principal: principalOf(publicKey),
    sign: async (message) => new Uint8Array(await crypto.subtle.sign("Ed25519", pair.privateKey, message)),
  };
}

async function work<T>(mode: IDBTransactionMode, what: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const database = await new Promise<IDBDatabase>((done, fail) => {
    const asked = indexedDB.open(DATABASE, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(STORE);
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => fail(new Error(t("This browser keeps nothing, so it can have no identity.")));
  });
  try {
    return await new Promise<T>((done, fail) => {
      const asked = what(database.transaction(STORE, mode).objectStore(STORE));
      asked.onsuccess = () => done(asked.result);
      asked.onerror = () => fail(new Error(t("This browser could not keep the identity.")));
    });
  } finally {
    database.close();
  }
}

/** A key of the server for this identity. Raises CallError. */
export async function signIn(identity: Identity, canisterId: string): Promise<string> {
  const response = await request("session", {
    method: "POST",
    headers: { "Content-Type": "application/cbor" },
    body: await envelope(identity, canisterId),
  });
  const body = (await response.json()) as { key?: string; Err?: { Other?: string }; reject_message?: string };
  if (!body.key) throw new CallError(body.Err?.Other ?? body.reject_message ?? response.statusText, "reject", response.status);
  return body.key;
}

async function envelope(identity: Identity, canisterId: string): Promise<Uint8Array<ArrayBuffer>> {
  const content: Fields = {
    request_type: "call",
    sender: bytesOf(identity.principal),
    nonce: crypto.getRandomValues(new Uint8Array(32)),
    ingress_expiry: BigInt(Date.now() + MINUTES * 60_000) * 1_000_000n,
    canister_id: bytesOf(canisterId),
    method_name: "console_session",
    arg: new Uint8Array(),
  };
  const signature = await identity.sign(joined([utf8(DOMAIN), await hashOf(content)]));
  return cbor({ content, sender_pubkey: identity.publicKey, sender_sig: signature });
}

// -- bytes of the IC: CBOR, hashes, principals

type Bytes = Uint8Array<ArrayBuffer>;
type Value = string | bigint | Bytes | Fields;
interface Fields {
  [name: string]: Value;
}

const utf8 = (text: string): Bytes => new TextEncoder().encode(text);

export function cbor(value: Value): Bytes {
  if (typeof value === "string") return joined([head(3, BigInt(utf8(value).length)), utf8(value)]);
  if (typeof value === "bigint") return head(0, value);
  if (value instanceof Uint8Array) return joined([head(2, BigInt(value.length)), value]);
  const fields = Object.entries(value);
  return joined([head(5, BigInt(fields.length)), ...fields.flatMap(([name, of]) => [cbor(name), cbor(of)])]);
}

function head(kind: number, n: bigint): Bytes {
  const size = n < 24n ? 0 : n < 0x100n ? 1 : n < 0x10000n ? 2 : n < 0x100000000n ? 4 : 8;
  if (size === 0) return Uint8Array.of((kind << 5) | Number(n));
  const bytes = new Uint8Array(1 + size);
  bytes[0] = (kind << 5) | (24 + Math.log2(size));
  for (let at = size; at > 0; at--, n >>= 8n) bytes[at] = Number(n & 0xffn);
  return bytes;
}

const sha256 = async (bytes: Bytes): Promise<Bytes> => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));

/** The representation-independent hash of a value. */
async function hashOf(value: Value): Promise<Bytes> {
  if (typeof value === "string") return sha256(utf8(value));
  if (typeof value === "bigint") return sha256(leb128(value));
  if (value instanceof Uint8Array) return sha256(value);
  const pairs = await Promise.all(
    Object.entries(value).map(async ([name, of]) => joined([await hashOf(name), await hashOf(of)])),
  );
  const order = pairs.map((pair) => [toHex(pair), pair] as const).sort(([a], [b]) => (a < b ? -1 : 1));
  return sha256(joined(order.map(([, pair]) => pair)));
}

function leb128(n: bigint): Bytes {
  const digits: number[] = [];
  for (; n > 0x7fn; n >>= 7n) digits.push(Number(n & 0x7fn) | 0x80);
  return Uint8Array.from([...digits, Number(n)]);
}

const LETTERS = "abcdefghijklmnopqrstuvwxyz234567";

function principalOf(publicKey: Bytes): string {
  const bytes = joined([sha224(publicKey), Uint8Array.of(2)]);
  const sum = crc32(bytes);
  const all = joined([Uint8Array.of(sum >>> 24, (sum >>> 16) & 255, (sum >>> 8) & 255, sum & 255), bytes]);
  let text = "";
  let [held, n] = [0, 0];
  for (const byte of all) {
    held = (held << 8) | byte;
    for (n += 8; n >= 5; n -= 5) text += LETTERS[(held >>> (n - 5)) & 31];
    held &= (1 << n) - 1;
  }
  if (n) text += LETTERS[(held << (5 - n)) & 31];
  return text.match(/.{1,5}/g)!.join("-");
}

function bytesOf(principal: string): Bytes {
  const found: number[] = [];
  let [held, n] = [0, 0];
  for (const letter of principal.replaceAll("-", "")) {
    held = (held << 5) | LETTERS.indexOf(letter);
    n += 5;
    if (n >= 8) found.push((held >>> (n -= 8)) & 255);
    held &= (1 << n) - 1;
  }
  return Uint8Array.from(found.slice(4)); // behind the checksum
}

function crc32(bytes: Bytes): number {
  let sum = ~0;
  for (const byte of bytes) {
    sum ^= byte;
    for (let n = 0; n < 8; n++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

/** FIPS 180-4; WebCrypto has none. The constants are those of SHA-256: roots of primes. */
export function sha224(message: Bytes): Bytes {
  const primes: number[] = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  const k = primes.map((prime) => fraction(Math.cbrt(prime)));
  const h = [0xc1059ed8, 0x367cd507, 0x3070dd17, 0xf70e5939, 0xffc00b31, 0x68581511, 0x64f98fa7, 0xbefa4fa4];
  const padded = new Uint8Array((((message.length + 8) >> 6) + 1) << 6);
  padded.set(message);
  padded[message.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 4, message.length * 8);
  const w = new Uint32Array(64);
  const turn = (x: number, n: number): number => (x >>> n) | (x << (32 - n));
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getUint32(at + 4 * i);
    for (let i = 16; i < 64; i++) {
      const [a, b] = [w[i - 15]!, w[i - 2]!];
      w[i] = w[i - 16]! + (turn(a, 7) ^ turn(a, 18) ^ (a >>> 3)) + w[i - 7]! + (turn(b, 17) ^ turn(b, 19) ^ (b >>> 10));
    }
    let [a, b, c, d, e, f, g, z] = h as [number, number, number, number, number, number, number, number];
    for (let i = 0; i < 64; i++) {
      const one = (z + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + k[i]! + w[i]!) | 0;
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [z, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, z].forEach((value, i) => (h[i] = (h[i]! + value) | 0));
  }
  const hash = new DataView(new ArrayBuffer(28));
  for (let i = 0; i < 7; i++) hash.setInt32(4 * i, h[i]!);
  return new Uint8Array(hash.buffer);
}

const fraction = (root: number): number => Math.floor((root - Math.floor(root)) * 2 ** 32) | 0;
