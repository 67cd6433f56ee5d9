// The chats of the caller with this canister: those in the browser's database, and the one that is shown.
import { batch, effect, signal } from "@preact/signals";
import { call, canister, toJson } from "./api";
import { Conversation, newId, type Saved } from "./conversation";
import { current, principal } from "./session";
import * as store from "./store";
import { t } from "./i18n";

const SAVE_MS = 300;

export const conversations = signal<Conversation[]>([]);
let owner = "";

/** The one that was gone on with last is the first. */
const inOrder = <T extends { changed: number }>(all: T[]): T[] => all.toSorted((a, b) => b.changed - a.changed);

export const active = signal<Conversation>(watch(new Conversation()));

effect(() => {
  const id = current.value?.id;
  const next = principal.value && id ? `${principal.value} ${id}` : "";
  if (next && next !== owner) {
    owner = next;
    void load(next);
  }
});

async function load(of: string): Promise<void> {
  const saved = await store.listOf<Saved>(of);
  if (of !== owner) return;
  const found = inOrder(saved).map((one) => watch(new Conversation(one)));
  const begun = active.value;
  batch(() => {
    conversations.value = found;
    // Somebody may have been quicker than this list: what they wrote and asked stays.
    if (begun.owner === "") {
      begun.owner = of;
      if (begun.messages.value.length) begun.onChange(true);
    } else if (begun.owner !== of) active.value = fresh();
  });
}

function watch(chat: Conversation): Conversation {
  let timer = 0;
  chat.owner ||= owner;
  chat.onChange = (isSettled) => {
    if (!chat.owner) return; // nobody knows yet whose it is
    const all = conversations.value;
    if (!all.includes(chat)) conversations.value = inOrder([chat, ...all]);
    else if (all[0] !== chat && chat.changed > all[0]!.changed) conversations.value = inOrder(all);
    clearTimeout(timer);
    if (isSettled) void store.put(chat.saved());
    else timer = setTimeout(() => void store.put(chat.saved()), SAVE_MS);
  };
  return chat;
}

/** A chat without a message; it is listed and saved from its first one on. */
export const fresh = (): Conversation => watch(new Conversation({ owner }));

export function open(chat: Conversation): void {
  active.value = watch(chat);
  if (chat.messages.value.length) chat.onChange(true);
}

/** Forget a chat, and its prompt cache on the server. */
export async function forget(chat: Conversation): Promise<void> {
  chat.onChange = () => {};
  batch(() => {
    conversations.value = conversations.value.filter((one) => one !== chat);
    if (active.value === chat) active.value = fresh();
  });
  await store.remove(chat.id);
  if (chat.cache) await call("remove_prompt_cache", { args: ["--prompt-cache", chat.cache] }).catch(() => undefined);
}

const FORMAT = "llama-canister chats 1";

export const exported = (): string =>
  toJson({ format: FORMAT, canister: canister.value, chats: conversations.value.map((one) => one.saved()) }, 1);

/** Chats of a file that `exported` made, as new ones. Raises an Error that says what is wrong. */
export function imported(text: string): void {
  let found: { format?: unknown; chats?: unknown };
  try {
    found = JSON.parse(text) as typeof found;
  } catch {
    throw new Error(t("The file is not JSON."));
  }
  if (found.format !== FORMAT || !Array.isArray(found.chats)) throw new Error(t("The file holds no chats of this console."));
  for (const one of found.chats as Saved[]) {
    if (!Array.isArray(one.messages) || typeof one.title !== "string") throw new Error(t("A chat in the file is damaged."));
    // The prompt cache is another caller's or another server's; what was said goes in again when it is gone on with.
    const messages = one.messages.map((said) => ({ ...said, steps: [] }));
    const chat = watch(new Conversation({ ...one, messages, id: newId(), owner, cache: "", parent: "" }));
    chat.onChange(true);
  }
}
