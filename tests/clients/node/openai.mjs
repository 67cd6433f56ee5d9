// OpenAI's own client for node, unmodified.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { BASE, KEY, OTHER_KEY, WEATHER, checkWeather, countingFetch, main } from "./cases.mjs";

const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: KEY, maxRetries: 0 });
const QUESTION = [{ role: "user", content: "Who are you?" }];
const ASKED = { model: "gpt-4o", messages: QUESTION, temperature: 0 };
const TOOL = { type: "function", function: { name: "get_weather", description: "Tells it.", parameters: WEATHER } };

async function toolCalls(stream) {
  const calls = [];
  let finish = null;
  for await (const chunk of stream) {
    for (const delta of chunk.choices[0]?.delta.tool_calls ?? []) {
      if (delta.id !== undefined) {
        calls[delta.index] = { id: delta.id, name: delta.function.name, text: "" };
      } else assert.equal(delta.function.name, undefined);
      calls[delta.index].text += delta.function.arguments ?? "";
    }
    finish = chunk.choices[0]?.finish_reason ?? finish;
  }
  return { calls, finish };
}

await main({
  async whole() {
    const answer = await client.chat.completions.create(ASKED);
    assert.match(answer.choices[0].message.content, /canister/);
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.ok(answer.usage.instructions > 0 && answer.usage.calls > 0);
  },

  async stream() {
    const whole = await client.chat.completions.create(ASKED);
    let text = "", usage = null, finish = null, n = 0;
    const stream = await client.chat.completions.create({ ...ASKED, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) {
      n += 1;
      text += chunk.choices[0]?.delta.content ?? "";
      finish = chunk.choices[0]?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(finish, "stop");
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
    assert.ok(n > 5, "the answer came in few pieces");
  },

  async tools() {
    const asked = { ...ASKED, tools: [TOOL], tool_choice: "required", parallel_tool_calls: false, max_tokens: 300, seed: 3, temperature: 0.8 };
    const whole = await client.chat.completions.create(asked);
    assert.equal(whole.choices[0].finish_reason, "tool_calls");
    for (const call of whole.choices[0].message.tool_calls) {
      assert.equal(call.function.name, "get_weather");
      checkWeather(JSON.parse(call.function.arguments));
    }
    const { calls, finish } = await toolCalls(await client.chat.completions.create({ ...asked, stream: true }));
    assert.equal(finish, "tool_calls");
    assert.deepEqual(calls.map((c) => c.text), whole.choices[0].message.tool_calls.map((c) => c.function.arguments));
    const result = { role: "tool", tool_call_id: whole.choices[0].message.tool_calls[0].id, content: "12 degrees" };
    const after = await client.chat.completions.create({ ...asked, tool_choice: "none", messages: [...QUESTION, whole.choices[0].message, result] });
    assert.equal(after.choices[0].message.tool_calls ?? null, null);
  },

  async parallelTools() {
    let most = 0;
    for (let seed = 0; seed < 30 && most < 2; seed++) {
      const stream = await client.chat.completions.create({
        ...ASKED, tools: [TOOL], tool_choice: "required", parallel_tool_calls: true, temperature: 1.5, seed, max_tokens: 400, stream: true,
      });
      const { calls, finish } = await toolCalls(stream);
      if (finish === "length") continue;
      calls.forEach((call) => checkWeather(JSON.parse(call.text)));
      assert.equal(new Set(calls.map((call) => call.id)).size, calls.length);
      most = Math.max(most, calls.length);
    }
    assert.ok(most >= 2, `at most ${most} calls in one answer`);
    const one = await client.chat.completions.create({ ...ASKED, tools: [TOOL], tool_choice: "required", parallel_tool_calls: false, max_tokens: 300 });
    assert.equal(one.choices[0].message.tool_calls.length, 1);
  },

  async schema() {
    const Weather = z.object({ city: z.enum(["Bern", "Paris"]), days: z.number().int() });
    const answer = await client.chat.completions.parse({ ...ASKED, response_format: zodResponseFormat(Weather, "weather"), max_tokens: 300 });
    assert.ok(["Bern", "Paris"].includes(answer.choices[0].message.parsed.city));
  },

  async errors() {
    const long = [{ role: "user", content: "word ".repeat(5000) }];
    await assert.rejects(client.chat.completions.create({ ...ASKED, messages: long }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.code, "context_length_exceeded");
      assert.match(error.message, /exceeds the available context size/);
      return true;
    });
    await assert.rejects(client.chat.completions.create({ ...ASKED, temperature: "hot" }), (error) => error.param === "temperature");
    const stranger = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: "wrong", maxRetries: 0 });
    await assert.rejects(stranger.chat.completions.create(ASKED), OpenAI.AuthenticationError);
    await assert.rejects(client.get("/nowhere"), OpenAI.NotFoundError);
  },

  async retries() {
    const seen = [];
    const patient = (key) => new OpenAI({ baseURL: `${BASE}/v1`, apiKey: key, maxRetries: 20, fetch: countingFetch(seen) });
    const long = { ...ASKED, messages: [{ role: "user", content: "Tell me everything about canisters, please." }], max_tokens: 100 };
    const answers = await Promise.all([KEY, KEY, OTHER_KEY].map((key) => patient(key).chat.completions.create(long)));
    assert.equal(new Set(answers.map((answer) => answer.choices[0].message.content)).size, 1);
    assert.ok(seen.some((status) => status === Number(process.env.CANISTER_EXPECTED)), `only saw ${seen}`);
  },

  async abort() {
    const stream = await client.chat.completions.create({ ...ASKED, stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta.content) break;
    }
    const controller = new AbortController();
    const gone = client.chat.completions.create(ASKED, { signal: controller.signal });
    controller.abort();
    await assert.rejects(gone, OpenAI.APIUserAbortError);
    const again = await client.chat.completions.create(ASKED);
    assert.match(again.choices[0].message.content, /canister/);
  },

  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.equal(ids.length, 1);
    assert.equal((await client.models.retrieve(ids[0])).id, ids[0]);
  },

  async responses() {
    const whole = await client.responses.create({ model: "m", input: "Who are you?", temperature: 0 });
    assert.match(whole.output_text, /canister/);
    const stream = client.responses.stream({ model: "m", input: "Who are you?", temperature: 0 });
    let text = "";
    stream.on("response.output_text.delta", (event) => (text += event.delta));
    const last = await stream.finalResponse();
    assert.equal(text, whole.output_text);
    assert.equal(last.status, "completed");
    const next = await client.responses.create({ model: "m", input: "And what do you do?", previous_response_id: last.id });
    assert.ok(next.output_text.length > 0);
    assert.equal((await client.responses.retrieve(last.id)).output_text, text);
    await client.responses.delete(last.id);
    await assert.rejects(client.responses.retrieve(last.id), OpenAI.NotFoundError);
  },

  // Prints the id after some events, waits for a line, by when the server was killed and started again, and reads on.
  async resumed() {
    const stream = await client.responses.create({ model: "m", input: "Who are you?", temperature: 0.9, seed: 5, background: true, stream: true });
    let id = null, after = -1, text = "";
    try {
      for await (const event of stream) {
        after = event.sequence_number;
        id = event.response?.id ?? id;
        if (event.type === "response.output_text.delta") {
          text += event.delta;
          if (text.length > 10) break;
        }
      }
    } finally {
      stream.controller.abort();
    }
    console.log(id);
    await new Promise((resolve) => process.stdin.once("data", resolve));
    let last = null;
    for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: after })) {
      assert.equal(event.sequence_number, ++after);
      if (event.type === "response.output_text.delta") text += event.delta;
      last = event;
    }
    assert.equal(last.type, "response.completed");
    assert.equal(last.response.output[0].content[0].text, text);
    process.stdin.destroy();
  },
});
