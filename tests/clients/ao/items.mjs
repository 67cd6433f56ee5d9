// Items of ours read by arbundles, and items by arbundles for us. In: JSON on stdin. Out: JSON on stdout.
import { readFileSync } from "node:fs";
import * as arbundles from "arbundles";

const { ArweaveSigner, EthereumSigner, DataItem, bundleAndSignData, createData, unbundleData } = arbundles;
const input = JSON.parse(readFileSync(0, "utf8"));
const bytes = (text) => Buffer.from(text, "base64");

const read = [];
for (const raw of input.items) {
  const item = new DataItem(bytes(raw));
  read.push({
    valid: await item.isValid(),
    id: item.id,
    owner: item.owner,
    target: item.target,
    anchor: item.rawAnchor.toString("base64"),
    tags: item.tags,
    data: item.rawData.toString("base64"),
  });
}
const bundle = unbundleData(bytes(input.bundle));

const made = [];
const signers = [new ArweaveSigner(input.jwk), new EthereumSigner(input.secret)];
for (const signer of signers) {
  for (const { data, tags, target, anchor } of input.wanted) {
    const item = createData(data, signer, { tags, target, anchor });
    await item.sign(signer);
    made.push({ raw: item.getRaw().toString("base64"), id: item.id });
  }
}
const both = await bundleAndSignData(
  input.wanted.map(({ data, tags }) => createData(data, signers[1], { tags })),
  signers[1],
);
console.log(
  JSON.stringify({
    read,
    bundle: { ids: bundle.getIds(), valid: await bundle.verify() },
    made,
    made_bundle: both.getRaw().toString("base64"),
    made_ids: both.getIds(),
  }),
);
