// The AI SDK with its provider for what speaks as OpenAI, unmodified.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, jsonSchema, streamText, tool } from "ai";
import { BASE, KEY, WEATHER, checkWeather, main } from "./cases.mjs";

const provider = createOpenAICompatible({ name: "canister", baseURL: `${BASE}/v1`, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true });
const model = provider("m");
const ASKED = { model, prompt: "Who are you?", temperature: 0, maxRetries: 0 };

await main({
  async whole() {
    const { text, finishReason, usage } = await generateText(ASKED);
    assert.match(text, /canister/);
    assert.equal(finishReason, "stop");
    assert.ok(usage.outputTokens > 0);
  },

  async stream() {
    const result = streamText(ASKED);
    let text = "";
    for await (const piece of result.textStream) text += piece;
    assert.match(text, /canister/);
    assert.ok((await result.usage).outputTokens > 0);
  },

  async tools() {
    const seen = [];
    const get_weather = tool({
      description: "Tells it.", inputSchema: jsonSchema(WEATHER),
      execute: async (input) => (seen.push(input), "12 degrees"),
    });
    const result = streamText({ ...ASKED, tools: { get_weather }, toolChoice: "required", maxOutputTokens: 400 });
    await result.consumeStream();
    assert.equal(await result.finishReason, "tool-calls");
    assert.ok(seen.length > 0);
    seen.forEach(checkWeather);
  },

  async schema() {
    const { output } = await generateText({ ...ASKED, output: Output.object({ schema: jsonSchema(WEATHER) }), maxOutputTokens: 300 });
    checkWeather(output);
  },

  async errors() {
    const stranger = createOpenAICompatible({ name: "canister", baseURL: `${BASE}/v1`, apiKey: "wrong" });
    await assert.rejects(generateText({ ...ASKED, model: stranger("m") }), (error) => {
      assert.ok(APICallError.isInstance(error));
      assert.equal(error.statusCode, 401);
      return true;
    });
  },
});
