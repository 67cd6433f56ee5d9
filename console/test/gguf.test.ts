import assert from "node:assert/strict";
import { test } from "node:test";
import { joined, toBase64, toHex } from "../src/bytes";
import { headOf, read } from "../src/gguf";

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

function number(n: number, size: 4 | 8): Uint8Array {
  const view = new DataView(new ArrayBuffer(size));
  if (size === 8) view.setBigUint64(0, BigInt(n), true);
  else view.setUint32(0, n, true);
  return new Uint8Array(view.buffer);
}

const text = (value: string): Uint8Array => joined([number(utf8(value).length, 8), utf8(value)]);
const pair = (key: string, kind: number, ...value: Uint8Array[]): Uint8Array => joined([text(key), number(kind, 4), ...value]);
const tensor = (name: string): Uint8Array =>
  joined([text(name), number(2, 4), number(32, 8), number(4, 8), number(0, 4), number(0, 8)]);

const SHORT = [
  pair("general.name", 8, text("a model")),
  pair("general.architecture", 8, text("llama")),
  pair("llama.context_length", 4, number(128, 4)),
  pair("llama.few", 9, number(4, 4), number(2, 8), number(1, 4), number(2, 4)),
];
const WORDS = pair("tokenizer.ggml.tokens", 9, number(8, 4), number(3, 8), text("a"), text("bc"), text(""));
const SCORES = pair("tokenizer.ggml.scores", 9, number(6, 4), number(2000, 8), new Uint8Array(8000));

function file(pairs: Uint8Array[], tensors = [tensor("token_embd.weight"), tensor("output.weight")], version = 3): Uint8Array<ArrayBuffer> {
  const head = [utf8("GGUF"), number(version, 4), number(tensors.length, 8), number(pairs.length, 8)];
  return joined([...head, ...pairs, ...tensors]);
}

const whole = file([...SHORT, WORDS, SCORES, pair("split.count", 4, number(3, 4)), pair("split.no", 2, Uint8Array.of(1, 0))]);

test("a header is read, and what is left of it is a header without long lists", async () => {
  const head = await headOf(new Blob([whole, new Uint8Array(1000)]));
  assert.deepEqual([head.name, head.architecture, head.nTensors], ["a model", "llama", 2]);
  assert.deepEqual([head.part, head.nParts], [2, 3]);
  assert.ok(head.slim.length < whole.length - 8000);
  const again = await headOf(new Blob([head.slim]));
  assert.deepEqual(again, head);
  const without = file([...SHORT, pair("split.count", 4, number(3, 4)), pair("split.no", 2, Uint8Array.of(1, 0))]);
  assert.equal(toHex(head.slim), toHex(without));
});

test("a vocabulary that is longer than the first look is read", async () => {
  const many = pair("tokenizer.ggml.merges", 9, number(8, 4), number(300_000, 8), joined(Array(300_000).fill(text("ab"))));
  const head = await headOf(new Blob([file([...SHORT, many])]));
  assert.equal(head.nTensors, 2);
  assert.equal(toHex(head.slim), toHex(file(SHORT)));
});

test("what is no model is told", async () => {
  const refused = (data: Uint8Array<ArrayBuffer>, told: RegExp): Promise<void> => assert.rejects(headOf(new Blob([data])), told);
  await refused(utf8("<html>") as Uint8Array<ArrayBuffer>, /not a GGUF file/);
  await refused(file(SHORT, [tensor("a")], 9), /version 9/);
  await refused(file(SHORT, []), /no tensors/);
  await refused(file([pair("x", 77)]), /damaged or cut off/);
  await refused(file([pair("x", 9, number(9, 4), number(1, 8))]), /damaged or cut off/);
});

test("every beginning of a header is cut off, and says so", async () => {
  for (let n = 24; n < whole.length; n += n < 300 ? 1 : 701)
    await assert.rejects(headOf(new Blob([whole.slice(0, n)])), /damaged or cut off/);
});

test("hostile counts end", () => {
  const view = (data: Uint8Array<ArrayBuffer>): DataView<ArrayBuffer> => new DataView(data.buffer);
  const huge = new Uint8Array(8).fill(255);
  assert.throws(() => read(view(file([pair("x", 9, number(8, 4), huge)]))), /behind the end/);
  assert.throws(() => read(view(file([joined([huge, utf8("x")])]))), /behind the end/);
});

test("bytes as texts", () => {
  const data = Uint8Array.from({ length: 100_000 }, (_, n) => n % 251);
  assert.equal(toBase64(data), Buffer.from(data).toString("base64"));
  assert.equal(toHex(Uint8Array.of(0, 15, 255)), "000fff");
});

declare const Buffer: { from: (data: Uint8Array) => { toString: (form: string) => string } };
