// One of the agents from npm, told what to do by tests/conformance/clients.py: a JSON line in, a JSON line out.
//
//     node driver.mjs dfinity-agent|icp-sdk-core
//
// The agents are used as their documentation shows; only the process's clock may be set wrong.

import { createInterface } from "node:readline";
import { webcrypto } from "node:crypto";

const PACKAGES = {
  "dfinity-agent": {
    agent: "@dfinity/agent",
    candid: "@dfinity/candid",
    identity: "@dfinity/identity",
    secp256k1: "@dfinity/identity-secp256k1",
    principal: "@dfinity/principal",
  },
  "icp-sdk-core": {
    agent: "@icp-sdk/core/agent",
    candid: "@icp-sdk/core/candid",
    identity: "@icp-sdk/core/identity",
    secp256k1: "@icp-sdk/core/identity/secp256k1",
    principal: "@icp-sdk/core/principal",
  },
};

const names = PACKAGES[process.argv[2]];
const { Actor, AnonymousIdentity, Certificate, HttpAgent } = await import(names.agent);
const { IDL } = await import(names.candid);
const { Principal } = await import(names.principal);
const { DelegationChain, DelegationIdentity, ECDSAKeyIdentity, Ed25519KeyIdentity } = await import(names.identity);
const { Secp256k1KeyIdentity } = await import(names.secp256k1);

const interfaceFactory = ({ IDL }) => {
  const ApiError = IDL.Variant({ Other: IDL.Text, StatusCode: IDL.Nat16 });
  const result = (ok, err = ApiError) => IDL.Variant({ Ok: ok, Err: err });
  const Status = result(IDL.Record({ status_code: IDL.Nat16 }));
  const Input = IDL.Record({ args: IDL.Vec(IDL.Text) });
  const Output = IDL.Record({
    status_code: IDL.Nat16,
    output: IDL.Text,
    conversation: IDL.Text,
    error: IDL.Text,
    prompt_remaining: IDL.Text,
    generated_eog: IDL.Bool,
    n_tokens_generated: IDL.Opt(IDL.Nat64),
  });
  const run = (mode) => IDL.Func([Input], [result(Output, Output)], mode);
  const limits = IDL.Record({ max_tokens_update: IDL.Nat64, max_tokens_query: IDL.Nat64 });
  const chunk = { filename: IDL.Text, chunksize: IDL.Nat64, offset: IDL.Nat64 };
  const details = { filename: IDL.Text, filesize: IDL.Nat64, filesha256: IDL.Text };
  return IDL.Service({
    health: IDL.Func([], [Status], ["query"]),
    whoami: IDL.Func([], [IDL.Text], ["query"]),
    set_max_tokens: IDL.Func([limits], [Status], []),
    file_upload_chunk: IDL.Func(
      [IDL.Record({ ...chunk, chunk: IDL.Vec(IDL.Nat8) })],
      [result(IDL.Record(details))],
      [],
    ),
    file_download_chunk: IDL.Func(
      [IDL.Record(chunk)],
      [result(IDL.Record({ chunk: IDL.Vec(IDL.Nat8), filesize: IDL.Nat64 }))],
      ["query"],
    ),
    get_receipt: IDL.Func(
      [IDL.Record({ call_id: IDL.Text, since: IDL.Opt(IDL.Nat64) })],
      [result(IDL.Record({ id: IDL.Text, method: IDL.Text, file: IDL.Vec(IDL.Nat8) }))],
      ["query"],
    ),
    load_model: run([]),
    new_chat: run([]),
    run_update: run([]),
    run_query: run(["query"]),
    remove_prompt_cache: run([]),
    // what the canister does not have
    no_such_method: IDL.Func([], [IDL.Text], []),
    no_such_query: IDL.Func([], [IDL.Text], ["query"]),
  });
};
// The same methods, called in the other way than they should be, or with another argument.
const wrongFactory = ({ IDL }) =>
  IDL.Service({
    whoami: IDL.Func([], [IDL.Text], []),
    run_update: IDL.Func([], [IDL.Text], ["query"]),
    set_max_tokens: IDL.Func([IDL.Text], [IDL.Text], []),
  });

async function makeIdentity({ kind, secret, delegated }) {
  const bytes = secret ? Uint8Array.from(Buffer.from(secret, "hex")) : undefined;
  let identity;
  if (kind === "anonymous") return new AnonymousIdentity();
  if (kind === "ed25519") identity = bytes ? Ed25519KeyIdentity.fromSecretKey(bytes) : Ed25519KeyIdentity.generate();
  if (kind === "secp256k1") identity = bytes ? Secp256k1KeyIdentity.fromSecretKey(bytes) : Secp256k1KeyIdentity.generate();
  if (kind === "prime256v1") identity = await ECDSAKeyIdentity.generate({ subtleCrypto: webcrypto.subtle });
  if (!delegated) return identity;
  const session = Ed25519KeyIdentity.generate();
  const chain = await DelegationChain.create(identity, session.getPublicKey(), new Date(Date.now() + 60_000));
  return DelegationIdentity.fromDelegation(session, chain);
}

const plain = (value) =>
  typeof value === "bigint"
    ? Number(value)
    : value instanceof Uint8Array
      ? { hex: Buffer.from(value).toString("hex") }
      : Array.isArray(value)
        ? value.map(plain)
        : value && typeof value === "object"
          ? Object.fromEntries(Object.entries(value).map(([name, item]) => [name, plain(item)]))
          : value;
const rich = (value) =>
  Array.isArray(value)
    ? value.map(rich)
    : value && typeof value === "object"
      ? "hex" in value
        ? Uint8Array.from(Buffer.from(value.hex, "hex"))
        : Object.fromEntries(Object.entries(value).map(([name, item]) => [name, rich(item)]))
      : value;

function setClock(seconds) {
  const RightDate = Date;
  globalThis.Date = class extends RightDate {
    constructor(...given) {
      super(...(given.length ? given : [RightDate.now() + seconds * 1000]));
    }
    static now() {
      return RightDate.now() + seconds * 1000;
    }
  };
}

let actor, wrong;
const operations = {
  async open({ url, canister, identity, clock_seconds = 0 }) {
    setClock(clock_seconds);
    const sender = await makeIdentity(identity);
    const agent = await HttpAgent.create({ host: url, identity: sender, shouldFetchRootKey: true });
    actor = Actor.createActor(interfaceFactory, { agent, canisterId: canister });
    wrong = Actor.createActor(wrongFactory, { agent, canisterId: canister });
    return sender.getPrincipal().toText();
  },
  async call({ method, arg }) {
    return plain(await actor[method](...(arg === undefined || arg === null ? [] : [rich(arg)])));
  },
  async call_wrongly({ method, arg }) {
    return plain(await wrong[method](...(arg === undefined || arg === null ? [] : [arg])));
  },
  async certified_data({ certificate, root_key, canister }) {
    const id = Principal.fromText(canister);
    const checked = await Certificate.create({
      certificate: rich(certificate),
      rootKey: rich(root_key),
      principal: { canisterId: id },
    });
    const found = checked.lookup_path(["canister", id.toUint8Array(), "certified_data"]);
    return plain(found.value);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { operation, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = { value: await operations[operation](given) };
  } catch (error) {
    answer = { error: String(error?.stack ?? error), message: String(error?.message ?? error) };
  }
  console.log(JSON.stringify(answer));
}
