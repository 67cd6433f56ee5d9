// Uploads by turbo-sdk: small data, a file, a file in chunks, an item that was signed before. In: JSON on stdin, out: JSON.
import { createReadStream, readFileSync, statSync } from "node:fs";
import { ArweaveSigner, EthereumSigner, TurboFactory } from "@ardrive/turbo-sdk";

const { url, jwk, secret, file } = JSON.parse(readFileSync(0, "utf8"));
const services = { uploadServiceConfig: { url }, paymentServiceConfig: { url }, gatewayUrl: url };
const turbo = TurboFactory.authenticated({ signer: new ArweaveSigner(jwk), token: "arweave", ...services });
const dataItemOpts = { tags: [{ name: "Content-Type", value: "text/plain" }] };
const whole = () => ({
  fileStreamFactory: () => createReadStream(file),
  fileSizeFactory: () => statSync(file).size,
  dataItemOpts,
});

const told = {};
told.data = await turbo.upload({ data: "a line", dataItemOpts });
told.file = await turbo.uploadFile({ ...whole(), chunkingMode: "disabled" });
told.chunked = await turbo.uploadFile({ ...whole(), chunkingMode: "force", chunkByteCount: 5 * 1024 * 1024 });
const progress = [];
told.watched = await turbo.uploadFile({
  ...whole(),
  chunkingMode: "auto",
  events: { onProgress: ({ processedBytes }) => progress.push(processedBytes) },
});
told.progress = progress.length;
const other = TurboFactory.authenticated({ signer: new EthereumSigner(secret), token: "ethereum", ...services });
told.ethereum = await other.upload({ data: "by another wallet", dataItemOpts });
told.price = (await turbo.getUploadCosts({ bytes: [1000] }))[0].winc;
told.balances = [await turbo.getBalance(), await other.getBalance()].map(({ winc }) => winc);
told.free = await turbo.getFreeStatus();
process.stdout.write(JSON.stringify(told));
process.exit(0);
