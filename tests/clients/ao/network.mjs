// Uses a network of AO as programs do: argument 1 is the package, argument 2 the mode. In: JSON on stdin, out: JSON.
import { readFileSync } from "node:fs";

const { name, mode, url, jwk, module, code, node } = JSON.parse(readFileSync(0, "utf8"));
const lib = await import(name);
const settings = { MU_URL: `${url}/mu`, CU_URL: `${url}/cu`, GATEWAY_URL: url, GRAPHQL_URL: `${url}/graphql` };
const told = {};

if (mode === "legacy") {
  const ao = lib.connect(settings);
  const signer = (ao.createDataItemSigner ?? lib.createDataItemSigner)(jwk);
  const wait = (process, message) => ao.result({ process, message });
  const tags = [
    { name: "Authority", value: node },
    { name: "Cron-Interval", value: "10-minutes" },
    { name: "Cron-Tag-Action", value: "Cron" },
  ];
  const process = await ao.spawn({ module, scheduler: node, signer, tags });
  const load = await ao.message({ process, signer, tags: [{ name: "Action", value: "Eval" }], data: code });
  told.loaded = await wait(process, load);
  const ping = await ao.message({ process, signer, tags: [{ name: "Action", value: "Ping" }], data: "hello" });
  told.pinged = await wait(process, ping);
  told.dry = await ao.dryrun({ process, tags: [{ name: "Action", value: "Ping" }], data: "dry" });
  told.again = await ao.dryrun({ process, tags: [{ name: "Action", value: "Ping" }], data: "dry" });
  const page = await ao.results({ process, limit: 2, sort: "ASC" });
  told.first = page.edges.map((edge) => edge.cursor).length;
  told.next = (await ao.results({ process, from: page.edges.at(-1).cursor, limit: 25 })).edges.map((edge) => edge.node);
  if (ao.assign) {
    const other = await ao.spawn({ module, scheduler: node, signer });
    told.assigned = typeof (await ao.assign({ process: other, message: ping }));
  }
  told.monitored = typeof (await ao.monitor({ process, signer }));
  told.unmonitored = typeof (await ao.unmonitor({ process, signer }));
  told.process = process;
} else if (mode === "mainnet") {
  const ao = lib.connect({ MODE: "mainnet", URL: url, signer: lib.createSigner(jwk) });
  const process = await ao.spawn({ module, authority: node, data: "" });
  const load = await ao.message({ process, tags: [{ name: "Action", value: "Eval" }], data: code });
  told.loaded = await ao.result({ process, slot: load, message: load });
  const ping = await ao.message({ process, tags: [{ name: "Action", value: "Ping" }], data: "hello" });
  told.pinged = await ao.result({ process, slot: ping, message: ping });
  told.dry = await ao.dryrun({ process, tags: [{ name: "Action", value: "Ping" }], data: "dry" });
  told.again = await ao.dryrun({ process, tags: [{ name: "Action", value: "Ping" }], data: "dry" });
  told.next = (await ao.results({ process })).edges.map((edge) => edge.node);
  told.process = process;
} else {
  // Signed HTTP requests, which is all that versions before 0.0.93 do in this mode, and what `request` does by itself.
  const ao = lib.connect({ MODE: "mainnet", URL: url, signer: lib.createSigner(jwk) });
  const fields = { method: "POST", "Data-Protocol": "ao", Variant: "ao.N.1" };
  const header = (answer, name) => (answer.headers?.get ? answer.headers.get(name) : answer[name]);
  const made = await ao.request({ ...fields, path: "/push", Type: "Process", Module: module, Authority: node });
  const process = header(made, "process");
  const sent = { ...fields, path: `/${process}~process@1.0/push`, target: process, Type: "Message" };
  const line = code.replaceAll("\n", " "); // these clients announce data of several lines, and do not send it
  await ao.request({ ...sent, Action: "Eval", data: line });
  const pong = await ao.request({ ...sent, Action: "Ping", data: "hello" });
  told.slot = header(pong, "slot");
  // The fields and the path with which the command aos evaluates, and where it reads what came of it.
  const asked = { type: "Message", "data-protocol": "ao", variant: "ao.N.1", target: process, Action: "Eval" };
  const path = `/${process}~process@1.0/push/serialize~json@1.0`;
  const shown = await ao.request({ ...asked, method: "POST", path, data: "return 'by aos'" });
  const body = typeof shown.body === "string" ? shown.body : await shown.text?.();
  told.evaluated = body ? JSON.parse(JSON.parse(body).json.body) : null;
  told.process = process;
}
process.stdout.write(JSON.stringify(told));
process.exit(0);
