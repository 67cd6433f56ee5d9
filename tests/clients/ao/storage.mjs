// Stores and reads by arweave and arbundles. In: JSON on stdin, out: JSON.
import { readFileSync } from "node:fs";
import Arweave from "arweave";
import { ArweaveSigner, bundleAndSignData, createData } from "arbundles";

const { url, jwk, size } = JSON.parse(readFileSync(0, "utf8"));
const { hostname, port } = new URL(url);
const arweave = Arweave.init({ host: hostname, port, protocol: "http" });
const told = {};

const data = Uint8Array.from({ length: size }, (_, i) => (31 * i + 7 * Math.floor(i / 256)) % 256);
const transaction = await arweave.createTransaction({ data }, jwk);
transaction.addTag("Content-Type", "application/x-test");
await arweave.transactions.sign(transaction, jwk);
const uploader = await arweave.transactions.getUploader(transaction);
while (!uploader.isComplete) await uploader.uploadChunk();
told.transaction = transaction.id;
told.status = (await arweave.transactions.getStatus(transaction.id)).status;
const back = await arweave.transactions.getData(transaction.id, { decode: true });
told.same = Buffer.compare(Buffer.from(data), Buffer.from(back)) === 0;
told.verified = await arweave.transactions.verify(await arweave.transactions.get(transaction.id));

const small = await arweave.createTransaction({ data: "small" }, jwk);
await arweave.transactions.sign(small, jwk);
told.posted = (await arweave.transactions.post(small)).status;
told.small = await arweave.transactions.getData(small.id, { decode: true, string: true });

const signer = new ArweaveSigner(jwk);
const item = createData("an item", signer, { tags: [{ name: "Content-Type", value: "text/plain" }] });
await item.sign(signer);
told.receipt = await (
  await fetch(`${url}/v1/tx/arweave`, {
    method: "POST",
    headers: { "content-type": "application/octet-stream" },
    body: item.getRaw(),
  })
).json();
told.item = item.id;
told.item_data = await (await fetch(`${url}/${item.id}`)).text();

const bundle = await bundleAndSignData([createData("one", signer), createData("two", signer)], signer);
const carrier = await bundle.toTransaction({}, arweave, jwk);
await arweave.transactions.sign(carrier, jwk);
await arweave.transactions.post(carrier);
told.bundled = [];
for (const each of bundle.items) told.bundled.push(await (await fetch(`${url}/${each.id}`)).text());
process.stdout.write(JSON.stringify(told));
process.exit(0);
