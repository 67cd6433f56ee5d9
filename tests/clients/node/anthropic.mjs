// Anthropic's own client for node, unmodified.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { BASE, KEY, WEATHER, checkWeather, main } from "./cases.mjs";

const client = new Anthropic({ baseURL: BASE, apiKey: KEY, maxRetries: 0 });
const ASKED = { model: "claude", max_tokens: 200, temperature: 0, messages: [{ role: "user", content: "Who are you?" }] };
const TOOL = { name: "get_weather", description: "Tells it.", input_schema: WEATHER };

await main({
  async whole() {
    const answer = await client.messages.create(ASKED);
    assert.equal(answer.stop_reason, "end_turn");
    assert.match(answer.content[0].text, /canister/);
    assert.ok(answer.usage.output_tokens > 0);
  },

  async stream() {
    const whole = await client.messages.create(ASKED);
    let text = "";
    const stream = client.messages.stream(ASKED).on("text", (piece) => (text += piece));
    const last = await stream.finalMessage();
    assert.equal(text, whole.content[0].text);
    assert.deepEqual(last.content.map((block) => block.type), ["text"]);
  },

  async tools() {
    const asked = { ...ASKED, max_tokens: 400, tools: [TOOL], tool_choice: { type: "any" } };
    const last = await client.messages.stream(asked).finalMessage();
    assert.equal(last.stop_reason, "tool_use");
    const uses = last.content.filter((block) => block.type === "tool_use");
    uses.forEach((use) => checkWeather(use.input));
    const results = uses.map((use) => ({ type: "tool_result", tool_use_id: use.id, content: "12 degrees" }));
    const after = await client.messages.create({
      ...asked, tool_choice: { type: "none" },
      messages: [...ASKED.messages, { role: "assistant", content: last.content }, { role: "user", content: results }],
    });
    assert.equal(after.content.every((block) => block.type !== "tool_use"), true);
  },

  async errors() {
    const long = [{ role: "user", content: "word ".repeat(5000) }];
    await assert.rejects(client.messages.create({ ...ASKED, messages: long }), (error) => {
      assert.ok(error instanceof Anthropic.BadRequestError);
      assert.match(error.message, /prompt is too long: \d+ tokens > \d+ maximum/);
      return true;
    });
    const stranger = new Anthropic({ baseURL: BASE, apiKey: "wrong", maxRetries: 0 });
    await assert.rejects(stranger.messages.create(ASKED), Anthropic.AuthenticationError);
  },

  async count() {
    const counted = await client.messages.countTokens({ model: "claude", messages: ASKED.messages });
    const answer = await client.messages.create(ASKED);
    const { input_tokens, cache_read_input_tokens, cache_creation_input_tokens } = answer.usage;
    assert.equal(input_tokens + (cache_read_input_tokens ?? 0) + (cache_creation_input_tokens ?? 0), counted.input_tokens);
  },

  async abort() {
    const stream = client.messages.stream(ASKED);
    stream.on("text", () => stream.abort());
    await assert.rejects(stream.finalMessage(), Anthropic.APIUserAbortError);
    assert.match((await client.messages.create(ASKED)).content[0].text, /canister/);
  },
});
