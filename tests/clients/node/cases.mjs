// What the scripts here share: where the server is, and the cases of a run (`node openai.mjs CASE …`).
import assert from "node:assert/strict";

export const BASE = process.env.CANISTER_BASE;
export const KEY = process.env.CANISTER_KEY;
export const OTHER_KEY = process.env.CANISTER_OTHER_KEY;

export const WEATHER = {
  type: "object",
  properties: { city: { type: "string", enum: ["Bern", "Paris"] }, days: { type: "integer", minimum: 1, maximum: 9 } },
  required: ["city", "days"],
  additionalProperties: false,
};

export function checkWeather(value) {
  assert.deepEqual(Object.keys(value).sort(), ["city", "days"]);
  assert.ok(["Bern", "Paris"].includes(value.city), `a city that is no member: ${value.city}`);
  assert.ok(Number.isInteger(value.days) && value.days >= 1 && value.days <= 9, `days out of range: ${value.days}`);
}

// A fetch that counts the statuses it saw.
export function countingFetch(seen) {
  return async (url, options) => {
    const response = await fetch(url, options);
    seen.push(response.status);
    return response;
  };
}

// Runs those that are named, also after one that fails; each tells how it went.
export async function main(cases) {
  for (const name of process.argv.slice(2)) {
    try {
      assert.ok(name in cases, `there is no case ${name}; there are ${Object.keys(cases)}`);
      await cases[name]();
      console.log(`${name}: ok`);
    } catch (error) {
      console.error(error);
      console.log(`${name}: failed`);
    }
  }
}
