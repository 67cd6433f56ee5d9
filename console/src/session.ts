// Who is signed in, what the server has, and how one gets in: by a code of a link, or by an API key.
import { computed, signal } from "@preact/signals";
import { ask, call, canister, CallError, forgetKey, isOnline, keepKey, key, messageOf, refusal } from "./api";
import { t } from "./i18n";

export interface Canister {
  id: string;
  name: string;
  status: string;
  ready: boolean;
  model: string | null;
  /** The name that the model's file gives itself; "" where it gives none. */
  title?: string;
  /** Of a herd alone. */
  workers?: number;
}

interface Props {
  model_path: string;
  chat_template: string;
  default_generation_settings: { n_ctx: number };
}

export const principal = signal("");
export const canisters = signal<Canister[]>([]);
export const current = computed(() => canisters.value.find((one) => one.name === canister.value) ?? null);
export const isHerd = computed(() => current.value?.workers !== undefined);
/** Are the doors of AO open here? */
export const hasAo = signal(false);
/** What an XDR costs, and with it 10¹² cycles. */
export const usdPerXdr = signal(0);
/** Of the loaded model; null while none is loaded, or for callers who may not use it. */
export const props = signal<Props | null>(null);
/** What the canister has left; null: this caller may not know. */
export const cycles = signal<number | null>(null);
/** The model's file, which callers know who may know what the canister has left. */
const modelFile = signal("");
/** Why the caller may not use the model; empty: may, or nobody knows. */
export const denial = signal("");

const LINK = /^#code=([\w-]+)$/;

/** Is there a code in the fragment, as `canister console` makes it? */
export const isLink = (): boolean => LINK.test(location.hash);

/** Take the code out of the fragment, and sign in by it. It is never sent in an address, and leaves it at once. */
export async function enterByLink(): Promise<void> {
  const given = LINK.exec(location.hash);
  if (!given) return;
  history.replaceState(null, "", `${location.pathname}#/chat`);
  forget(); // whoever was signed in here, with a key that may count no longer
  try {
    const made = (await ask<{ key: string }>("session", { code: given[1] })).value;
    keepKey(made.key, false);
  } catch (error) {
    forgetKey(messageOf(error));
  }
}

export async function enterByKey(text: string, isKept: boolean): Promise<void> {
  keepKey(text, isKept);
  await refresh();
}

/** As the identity that this browser keeps, or as a new one. Raises an Error. */
export async function enterByIdentity(): Promise<void> {
  const identities = await import("./identity");
  if (canisters.value.length === 0) await refresh();
  const id = current.value?.id ?? canisters.value[0]?.id;
  if (!id) throw new Error(t("The server does not answer."));
  const identity = (await identities.kept()) ?? (await identities.make());
  keepKey(await identities.signIn(identity, id), false);
  await refresh();
}

export async function leave(): Promise<void> {
  try {
    await ask("session", undefined, { verb: "DELETE" });
  } catch {
    // a key that no console made stays; the browser forgets it all the same
  }
  forget();
}

function forget(): void {
  forgetKey();
  principal.value = "";
  props.value = null;
}

/** A herd knows its model by a digest, of which the beginning is enough. */
const shortDigest = (text: string): string => text.replace(/^(SHA-256 [0-9a-f]{8})[0-9a-f]+$/, "$1…");

/** What the loaded model is called, in a few words; "" while none is loaded. A herd does not know its title. */
export const modelName = computed(() => {
  const one = current.value;
  if (!one?.ready) return "";
  return one.title || modelFile.value || shortDigest(one.model ?? "");
});

/** Of what kind the loaded model is, as llama.cpp says it. A size that it does not know is left out. */
export const modelKind = computed(() => (current.value?.model ?? "").replace(" ?B", ""));

let isLooking = false;

/** Look at the server again; what cannot be had is told by the signals. */
export async function refresh(): Promise<void> {
  if (isLooking) return;
  isLooking = true;
  try {
    const answer = (await ask<{ canisters: Canister[]; usd_per_xdr?: number; has_ao?: boolean }>("canisters", undefined, { verb: "GET" })).value;
    const found = answer.canisters;
    hasAo.value = answer.has_ao === true;
    usdPerXdr.value = answer.usd_per_xdr ?? 0;
    if (JSON.stringify(found) !== JSON.stringify(canisters.value)) canisters.value = found;
    if (!found.some((one) => one.name === canister.value)) canister.value = found[0]?.name ?? "";
    if (!principal.value && key.value) principal.value = (await call("whoami")).value;
    await Promise.all([look(), lookAtCycles()]);
  } catch {
    // isOnline and refusal say it
  } finally {
    isLooking = false;
  }
}

let refused = ""; // who may not see the canister's cycles

async function lookAtCycles(): Promise<void> {
  const asked = `${principal.value} ${canister.value}`;
  if (refused === asked) return;
  try {
    const path = `canisters/${encodeURIComponent(canister.value)}/engine`;
    const engine = (await ask<{ cycles: number | bigint; file?: { name: string } }>(path, undefined, { verb: "GET" })).value;
    cycles.value = Number(engine.cycles);
    modelFile.value = engine.file?.name ?? "";
  } catch (error) {
    cycles.value = null;
    modelFile.value = "";
    if (error instanceof CallError && error.isDenied) refused = asked;
  }
}

async function look(): Promise<void> {
  if (!current.value?.ready) {
    props.value = null;
    denial.value = "";
    return;
  }
  try {
    const path = `canisters/${encodeURIComponent(canister.value)}/props`;
    const found = (await ask<Props>(path, undefined, { verb: "GET" })).value;
    if (JSON.stringify(found) !== JSON.stringify(props.value)) props.value = found;
    denial.value = "";
  } catch (error) {
    props.value = null;
    denial.value = error instanceof CallError && error.isDenied ? error.message : "";
  }
}

export { isOnline, key, refusal };
