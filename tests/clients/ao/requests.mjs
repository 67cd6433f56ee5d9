// Sends signed HTTP requests, as aoconnect does in its mainnet mode. In: JSON on stdin.
import { readFileSync } from "node:fs";
import { connect, createSigner } from "@permaweb/aoconnect";

const { url, jwk, requests } = JSON.parse(readFileSync(0, "utf8"));
const ao = connect({ MODE: "mainnet", URL: url, signer: createSigner(jwk) });
for (const fields of requests) {
  await ao.request(fields);
}
console.log("sent");
