import assert from "node:assert/strict";
import { test } from "node:test";
import { CallError, isForNow, parse, secondsToWait, toJson, waitFor, type Wait } from "../src/api";
import { answersIn } from "../src/call_log";
import { linesTo } from "../src/charts";
import { csvOf } from "../src/csv";
import { bytes, dayOf, milliseconds, number, percent, shortPrincipal, usd, usdOf } from "../src/format";
import { speak, t } from "../src/i18n";
import { promptsOf, sumsOf, variablesOf, type Trial } from "../src/lab";
import { partsOf } from "../src/parts";

test("CSV has quotes doubled, and no formula", () => {
  const rows = [{ a: 'x"y', b: "=1+1" }, { a: "line\nbreak", b: null }, { a: 2n ** 63n, b: "-1" }];
  assert.equal(
    csvOf(["a", "b"], rows),
    `a,b\r\n"x""y","'=1+1"\r\n"line\nbreak",""\r\n"9223372036854775808","'-1"\r\n`,
  );
});

test("answers are counted from the log, whichever call begins them", () => {
  const call = (caller: string, n_prompt: bigint | null, n_generated: bigint | null) => ({
    caller,
    n_prompt_tokens_decoded: n_prompt,
    n_tokens_generated: n_generated,
  });
  const atOnce = [call("a", 14n, 3n), call("a", 0n, 3n), call("a", 0n, 1n)];
  assert.equal(answersIn(atOnce), 1);
  const behindItsPrompt = [call("a", 8n, 0n), call("a", 6n, 0n), call("a", 0n, 3n), call("a", 0n, 3n)];
  assert.equal(answersIn(behindItsPrompt), 1);
  assert.equal(answersIn([call("a", null, null), call("a", 8n, 0n), call("b", 8n, 2n), call("a", 0n, 2n)]), 2);
  assert.equal(answersIn([...atOnce, ...behindItsPrompt, ...atOnce]), 3);
  assert.equal(answersIn([]), 0);
});

test("lines across a chart stand at whole round numbers, and the last is not below the highest value", () => {
  assert.deepEqual(linesTo(0), [0, 1]);
  assert.deepEqual(linesTo(0.4), [0, 1]);
  assert.deepEqual(linesTo(5), [0, 2, 4, 6]);
  assert.deepEqual(linesTo(20), [0, 5, 10, 15, 20]);
  assert.deepEqual(linesTo(100), [0, 25, 50, 75, 100]);
  assert.deepEqual(linesTo(19_900_000_000), [0, 5e9, 10e9, 15e9, 20e9]);
  for (let highest = 1; highest < 1e15; highest = Math.ceil(highest * 1.3)) {
    const lines = linesTo(highest);
    assert.ok(lines.length <= 5 && lines.every(Number.isInteger) && lines.at(-1)! >= highest, String(highest));
  }
});

let hasSource = false; // of a number, for JSON.parse's reviver: browsers have it, and node since 21
JSON.parse("1", function (_key, value: unknown, context?: unknown) {
  hasSource = context !== undefined;
  return value;
} as (key: string, value: unknown) => unknown);

test("integers that a double cannot hold stay as they are", { skip: hasSource ? false : "this node is too old" }, () => {
  assert.deepEqual(parse('{"a": 18446744073709551615, "b": 1.5, "c": 9007199254740991, "d": 1e300}'), {
    a: 18446744073709551615n,
    b: 1.5,
    c: 9007199254740991,
    d: 1e300,
  });
  assert.equal(toJson({ a: 18446744073709551615n }), '{"a":"18446744073709551615"}');
});

test("numbers, sizes, times and money as people read them", () => {
  assert.deepEqual([number(1234567), number(null), number(2n ** 64n)], ["1,234,567", "–", "18,446,744,073,709,551,616"]);
  assert.deepEqual([bytes(0), bytes(1023), bytes(1024), bytes(26214400)], ["0 B", "1023 B", "1.00 KiB", "25.0 MiB"]);
  assert.deepEqual([percent(0.0123), percent(0.5), percent(NaN), percent(null)], ["1.2 %", "50 %", "–", "–"]);
  assert.deepEqual([milliseconds(12.4), milliseconds(1500), milliseconds(600_000)], ["12 ms", "1.5 s", "10 min"]);
  assert.deepEqual([usd(0), usd(0.00012345), usdOf(1e12, 1.35)], ["$0", "$0.00012", "$1.4"]);
  assert.deepEqual([shortPrincipal("aaaaa-aa"), shortPrincipal("a".repeat(63))], ["aaaaa-aa", `${"a".repeat(11)}…aaa`]);
});

test("days are called as one calls them, in each language", async () => {
  const now = new Date(2026, 2, 1, 0, 30).getTime();
  const at = (year: number, month: number, day: number): number => new Date(year, month - 1, day, 23, 59).getTime();
  assert.deepEqual([dayOf(now, now), dayOf(now + 60_000, now), dayOf(at(2026, 3, 2), now)], ["Today", "Today", "Today"]);
  assert.deepEqual([dayOf(at(2026, 2, 28), now), dayOf(at(2026, 2, 27), now)], ["Yesterday", "Friday, February 27"]);
  assert.equal(dayOf(at(2025, 12, 31), now), "December 31, 2025");
  const names = [];
  for (const name of ["de", "es", "ja", "zh"] as const) {
    await speak(name);
    names.push(dayOf(now, now), dayOf(at(2026, 2, 28), now));
  }
  await speak("en");
  assert.deepEqual(names, ["Heute", "Gestern", "Hoy", "Ayer", "今日", "昨日", "今天", "昨天"]);
});

test("how long to wait is told in seconds or by a date", () => {
  const told = (value: string): number => secondsToWait(new Headers({ "Retry-After": value }));
  assert.deepEqual([told("7"), told("0"), told("soon"), told("999999"), secondsToWait(new Headers())], [7, 0, 0, 3600, 0]);
  assert.equal(told(new Date(Date.now() - 5000).toUTCString()), 0);
  const later = told(new Date(Date.now() + 60_000).toUTCString());
  assert.ok(later > 50 && later <= 60);
});

test("a wait ends early when it is told to, or aborted", async () => {
  const busy = new CallError("busy", "reject", 503, null, "", 600);
  assert.ok(isForNow(busy) && isForNow(new CallError("", "Err", 429, null, "", 1)));
  assert.ok(!isForNow(new CallError("", "reject", 503)) && !isForNow(new CallError("", "Err", 400, null, "", 1)));
  const shown: (Wait | null)[] = [];
  const wait = waitFor(busy, (one) => shown.push(one));
  assert.equal(shown[0]?.why, "busy");
  shown[0]!.end();
  await wait;
  const abort = new AbortController();
  const other = waitFor(busy, (one) => shown.push(one), abort.signal);
  abort.abort();
  await other;
  await waitFor(busy, (one) => shown.push(one), abort.signal);
  assert.deepEqual(shown.map((one) => one !== null), [true, false, true, false, true, false]);
});

test("an answer is text, thoughts and calls of tools", () => {
  assert.deepEqual(partsOf("  "), []);
  assert.deepEqual(partsOf("<think>\nso\n</think>It is.\n<tool_call>{}</tool_call> Done"), [
    { kind: "thoughts", text: "so" },
    { kind: "text", text: "It is.\n" },
    { kind: "tool", text: "{}" },
    { kind: "text", text: " Done" },
  ]);
  assert.deepEqual(partsOf("<think>not over"), [{ kind: "thoughts", text: "not over" }]);
  assert.deepEqual(partsOf("<b>bold</b>"), [{ kind: "text", text: "<b>bold</b>" }]);
});

test("templates are filled with each combination of values", () => {
  const values = variablesOf("a = 1 | 2\n\nb-c=x");
  assert.deepEqual([...values], [["a", ["1", "2"]], ["b-c", ["x"]]]);
  assert.deepEqual(promptsOf("{{a}} and {{ b-c }}, {{a}}", values), ["1 and x, 1", "2 and x, 2"]);
  assert.deepEqual(promptsOf("nothing", values), ["nothing"]);
  assert.deepEqual(promptsOf("{{a}}", new Map([["a", ["$&", "{{a}}"]]])), ["$&", "{{a}}"]);
  assert.throws(() => promptsOf("{{d}}", values), /no line gives it values/);
  assert.throws(() => promptsOf("{{a}}", new Map([["a", Array(26).fill("x")]])), /More than 25/);
  assert.throws(() => variablesOf("a b = 1"), /is no variable/);
  assert.throws(() => variablesOf("a"), /is no variable/);
});

test("sums of trials leave the first one and the failed ones out", () => {
  const trial = (change: Partial<Trial>): Trial => ({
    ...{ prompt: "", answer: "", calls: 1, instructions: 10, cycles: 100, tokensIn: 1, tokensCached: 0, tokensOut: 1 },
    ...{ fullest: null, isGood: null, problem: "" },
    ...change,
  });
  const sums = sumsOf([
    trial({ cycles: 900, fullest: 0.5 }),
    trial({ cycles: 100, tokensCached: 5, isGood: true, fullest: 0.25 }),
    trial({ cycles: 200, isGood: false }),
    trial({ cycles: 10 ** 9, problem: "it failed" }),
  ]);
  assert.equal(sums.warmUp?.cycles, 900);
  assert.deepEqual([sums.steadyCycles, sums.steadyInstructions, sums.fullest, sums.good, sums.breaks], [150, 10, 0.5, 0.5, 1]);
  assert.deepEqual([sumsOf([]).warmUp, sumsOf([]).steadyCycles, sumsOf([]).good], [null, null, null]);
});

test("texts are put in, and come in the language of the page", async () => {
  assert.equal(t("{0} of {1}, {0}, {2}", 1, "x"), "1 of x, 1, {2}");
  await speak("de");
  assert.equal(t("Cancel"), "Abbrechen");
  assert.equal(t("No language has this."), "No language has this.");
  await speak("en");
  assert.equal(t("Cancel"), "Cancel");
});
