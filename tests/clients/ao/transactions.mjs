// Transactions of ours read by arweave-js, and its own for us. In: JSON on stdin. Out: JSON on stdout.
import { readFileSync } from "node:fs";
import Arweave from "arweave";

const arweave = Arweave.init({ host: "127.0.0.1", port: 9, protocol: "http" });
const { transactions, sizes, jwk } = JSON.parse(readFileSync(0, "utf8"));

const valid = [];
for (const document of transactions) {
  valid.push(await arweave.transactions.verify(arweave.transactions.fromRaw(document)));
}
const made = [];
for (const size of sizes) {
  const data = new Uint8Array(size).map((_, i) => (31 * i + 7 * Math.floor(i / 256)) % 256);
  const transaction = await arweave.createTransaction({ data, last_tx: "", reward: "7" }, jwk);
  transaction.addTag("Content-Type", "application/octet-stream");
  await arweave.transactions.sign(transaction, jwk);
  const chunks = transaction.chunks.chunks.map((_, i) => {
    const { chunk, ...rest } = transaction.getChunk(i, data);
    return rest;
  });
  made.push({ transaction: { ...transaction.toJSON(), data: "" }, chunks });
}
console.log(JSON.stringify({ valid, made }));
