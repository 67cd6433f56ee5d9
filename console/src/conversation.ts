// A chat over bounded update calls. The prompt goes in part by part, then the answer comes out part by part.
//
// `-n` is what is left, for the prompt's calls too: the call that takes the last of the prompt begins the answer.
// Outputs are never added up: a call that ends at -n shows a token that the next one gives again, and a lost reply loses
// text. The answer is what the reply's `conversation` has behind the prompt.
import { signal } from "@preact/signals";
import { ask, call, CallError, callHeard, canisterPath, isForNow, messageOf, waitFor } from "./api";
import type { Cost, Kind, Wait } from "./api";
import type { InputRecord, RunOutputRecord } from "./interface";
import { usual, type ChatSettings } from "./preferences";
import { props } from "./session";
import { t } from "./i18n";

export type { ChatSettings } from "./preferences";

export interface Step {
  n: number;
  phase: "open" | "prompt" | "answer";
  state: "running" | "waiting" | "done" | "stopped" | "failed";
  cost: Cost | null;
  ms: number;
  tokensIn: number;
  tokensOut: number;
  tokensLeft: number;
  error: string;
}

export type MessageState = "running" | "done" | "stopped" | "limit" | "full" | "failed";

export interface Message {
  role: "user" | "assistant";
  text: string;
  state: MessageState;
  steps: Step[];
  /** Is the whole prompt in? Then an empty prompt goes on. */
  isPrompted: boolean;
  /** Characters of `conversation` in front of the answer. */
  base: number;
  error: string;
  kind: Kind | "";
  requestId: string;
}

export interface Saved {
  id: string;
  owner: string;
  title: string;
  cache: string;
  parent: string;
  system: string;
  messages: Message[];
  settings: ChatSettings;
  context: number;
  changed: number;
}

/** What the running call has said. It does not count before the call's answer. */
export interface Live {
  text: string;
  pieces: number;
}

export const SILENT: Live = { text: "", pieces: 0 };
const LONGEST_TITLE = 60;
const DRAW_MS = 50;

// crypto.randomUUID is missing where a server is called by a name over plain HTTP.
export const newId = (): string => Array.from(crypto.getRandomValues(new Uint32Array(3)), (n) => n.toString(36)).join("");

const blank = { steps: [], isPrompted: false, base: -1, error: "", kind: "" as const, requestId: "" };

export class Conversation {
  readonly id: string;
  owner: string;
  parent: string;
  cache: string;
  changed: number;
  title = signal("");
  system = signal("");
  messages = signal<Message[]>([]);
  settings = signal<ChatSettings>(usual.value);
  busy = signal<"" | "prompt" | "answer" | "stopping">("");
  /** Tokens in the cache after the last call. */
  context = signal(0);
  live = signal<Live>(SILENT);
  /** While the server is busy. */
  wait = signal<Wait | null>(null);
  /** What is written in the box and not sent; it outlasts a look at other pages, and a sign-in. */
  draft = "";
  /** Told of every change. isSettled: nothing of it runs, so that it should be written at once. */
  onChange: (isSettled: boolean) => void = () => {};
  private abort: AbortController | null = null;
  private wantsStop = false;

  constructor(saved: Partial<Saved> = {}) {
    this.id = saved.id ?? newId();
    this.owner = saved.owner ?? "";
    this.parent = saved.parent ?? "";
    this.cache = saved.cache ?? "";
    this.changed = saved.changed ?? Date.now();
    this.title.value = saved.title ?? t("New chat");
    this.system.value = saved.system ?? "";
    this.settings.value = { ...usual.value, ...saved.settings };
    this.context.value = saved.context ?? 0;
    // What ran when the page was left is not known to have ended.
    this.messages.value = (saved.messages ?? []).map((one) => (one.state === "running" ? { ...one, state: "stopped" } : one));
  }

  saved(): Saved {
    return {
      id: this.id,
      owner: this.owner,
      parent: this.parent,
      title: this.title.value,
      cache: this.cache,
      system: this.system.value,
      messages: this.messages.value,
      settings: this.settings.value,
      context: this.context.value,
      changed: this.changed,
    };
  }

  private get last(): Message {
    const last = this.messages.value.at(-1);
    if (!last) throw new Error(t("the chat has no message yet"));
    return last;
  }

  private update(change: Partial<Message>): void {
    const all = this.messages.value.slice();
    all[all.length - 1] = { ...this.last, ...change };
    this.messages.value = all;
    this.touch();
  }

  private touch(): void {
    this.changed = Date.now();
    this.onChange(this.messages.value.at(-1)?.state !== "running");
  }

  /** The prompt of what was said so far, and of a new question, by the model's chat template. */
  async promptWith(question: string, abort?: AbortSignal): Promise<string> {
    return this.render([...this.messages.value, { role: "user", text: question }], {}, abort);
  }

  private async render(said: { role: string; text: string }[], more: object, abort?: AbortSignal): Promise<string> {
    if (props.value && !props.value.chat_template) return said.map((one) => one.text).join(""); // it only goes on
    const messages = said.map((one) => ({ role: one.role, content: one.text }));
    if (this.system.value) messages.unshift({ role: "system", content: this.system.value });
    const options = abort ? { abort } : {};
    return (await ask<{ prompt: string }>(canisterPath("apply-template"), { messages, ...more }, options)).value.prompt;
  }

  /** Flags of a run of this chat; `cache` "" stands for one that does not exist yet. */
  args(prompt: string, nPredict: number): { args: string[] } {
    const cache = this.cache || `console-${this.id}`;
    const flags = ["--prompt-cache", cache, "--prompt-cache-all", "--no-escape", "-p", prompt, "-n", String(nPredict)];
    return { args: [...flags, "--temp", String(this.settings.value.temperature)] };
  }

  async ask(question: string): Promise<void> {
    if (this.busy.value) return;
    if (this.messages.value.length === 0) this.title.value = question.slice(0, LONGEST_TITLE);
    const before = this.messages.value;
    this.messages.value = [
      ...before,
      { role: "user", text: question, state: "done", ...blank },
      { role: "assistant", text: "", state: "running", ...blank },
    ];
    this.touch();
    await this.work(async (abort) => {
      const said = [...before, { role: "user", text: question }];
      const prompt = await this.patiently(() => this.render(said, {}, abort), abort);
      if (!this.cache) {
        this.cache = `console-${this.id}`;
        await this.step("new_chat", "open", { args: ["--prompt-cache", this.cache, "--prompt-cache-all"] }, abort);
      }
      await this.run(prompt, abort);
    });
  }

  /** Go on with an answer that was stopped, that failed, or that is at its limit. */
  async resume(): Promise<void> {
    if (this.busy.value) return;
    this.update({ state: "running", error: "" });
    await this.work(async (abort) => {
      if (this.last.isPrompted) {
        try {
          await this.run("", abort);
          return;
        } catch (error) {
          if (!(error instanceof CallError && error.kind === "Err" && [400, 404].includes(error.status))) throw error;
        }
        // The cache is gone: what was said goes in again.
        const more = { add_generation_prompt: false, continue_final_message: true };
        const prompt = await this.patiently(() => this.render(this.messages.value, more, abort), abort);
        await this.run(prompt, abort);
        return;
      }
      if (!this.cache) {
        this.cache = `console-${this.id}`;
      }
      const said = this.messages.value.slice(0, -1);
      await this.run(await this.patiently(() => this.render(said, {}, abort), abort), abort);
    });
  }

  /** Once: after the running call, which counts. Twice: now; that call leaves no trace and costs nothing. */
  stop(): void {
    if (this.wantsStop) this.abort?.abort();
    this.wantsStop = true;
    if (this.busy.value) this.busy.value = "stopping";
    this.wait.value?.end(); // no call runs that could be waited for
  }

  /** Calls until the answer is complete. prompt: "" when all of it is in. */
  private async run(prompt: string, abort: AbortSignal): Promise<void> {
    const { answerTokens, tokensPerCall } = this.settings.value;
    let left = answerTokens;
    let remaining = -1;
    while (left > 1 && !this.wantsStop) {
      const phase = prompt ? "prompt" : "answer";
      if (this.busy.value !== "stopping") this.busy.value = phase;
      // A call that ends at -n has sampled one more token than it keeps.
      const nPredict = tokensPerCall ? Math.min(left, tokensPerCall + 1) : left;
      const record = await this.step("run_update", phase, this.args(prompt, nPredict), abort);
      const rest = Number(record.n_prompt_tokens_remaining ?? 0);
      if (rest) {
        if (rest === remaining) throw new CallError(t("The canister takes no more of the prompt; {0} tokens remain.", rest), "Err");
        remaining = rest;
        continue;
      }
      this.heard(record, prompt !== "");
      if (record.generated_eog) {
        this.update({ state: "done" });
        return;
      }
      if (!record.n_tokens_generated && !prompt) {
        this.update({ state: "full" });
        return;
      }
      prompt = "";
      left -= Number(record.n_tokens_generated);
    }
    if (!this.wantsStop) this.update({ state: "limit" });
  }

  /** The answer as the canister has it, also when a reply was lost. */
  private heard(record: RunOutputRecord, beganNow: boolean): void {
    const text = record.conversation;
    let base = this.last.base;
    if (beganNow || base < 0 || base > text.length) {
      const kept = this.last.text; // there already when what was said goes in again
      base = text.length - keptPart(record.output, text).length;
      if (kept && text.slice(0, base).endsWith(kept)) base -= kept.length;
    }
    this.update({ isPrompted: true, base, text: text.slice(base) });
  }

  private async work(what: (abort: AbortSignal) => Promise<void>): Promise<void> {
    this.wantsStop = false;
    this.abort = new AbortController();
    this.busy.value = "prompt";
    try {
      await what(this.abort.signal);
      if (this.last.state === "running") this.update({ state: "stopped" });
    } catch (error) {
      const isStopped = error instanceof DOMException && error.name === "AbortError";
      const [kind, requestId] = error instanceof CallError ? [error.kind, error.requestId] : (["http", ""] as const);
      this.update(isStopped ? { state: "stopped" } : { state: "failed", error: messageOf(error), kind, requestId });
    } finally {
      this.busy.value = "";
      this.abort = null;
    }
  }

  private async step(
    method: "new_chat" | "run_update",
    phase: Step["phase"],
    arg: InputRecord,
    abort: AbortSignal,
  ): Promise<RunOutputRecord> {
    const began: Step = {
      n: this.last.steps.length + 1,
      phase,
      state: "running",
      cost: null,
      ms: 0,
      tokensIn: 0,
      tokensOut: 0,
      tokensLeft: 0,
      error: "",
    };
    const at = this.last.steps.length;
    const set = (change: Partial<Step>): void => {
      const steps = this.last.steps.slice();
      steps[at] = { ...began, ...steps[at], ...change };
      this.update({ steps });
    };
    const send = async (): Promise<RunOutputRecord> => {
      const ear = this.listen();
      set({ state: "running" });
      try {
        const { value, cost, ms } = await (method === "run_update"
          ? callHeard(method, arg, ear.heard, abort)
          : call(method, arg, { abort }));
        const [tokensIn, tokensOut] = [Number(value.n_prompt_tokens_decoded ?? 0), Number(value.n_tokens_generated ?? 0)];
        if (value.n_prompt_tokens_cached != null)
          this.context.value = Number(value.n_prompt_tokens_cached) + tokensIn + tokensOut;
        const tokensLeft = Number(value.n_prompt_tokens_remaining ?? 0);
        set({ state: "done", cost, ms, tokensIn, tokensOut, tokensLeft });
        return value;
      } finally {
        ear.close();
      }
    };
    try {
      return await this.patiently(send, abort, () => set({ state: "waiting" }));
    } catch (error) {
      const isStopped = error instanceof DOMException && error.name === "AbortError";
      const cost = error instanceof CallError ? error.cost : null;
      set({ state: isStopped ? "stopped" : "failed", error: isStopped ? "" : messageOf(error), cost });
      throw error;
    }
  }

  /** Do it, and again as long as the server is only busy. Who stops meanwhile has stopped before it was done. */
  private async patiently<T>(act: () => Promise<T>, abort: AbortSignal, told?: () => void): Promise<T> {
    for (;;) {
      try {
        return await act();
      } catch (error) {
        if (!isForNow(error)) throw error;
        if (!this.wantsStop) {
          told?.();
          await waitFor(error, (wait) => (this.wait.value = wait), abort);
        }
        if (this.wantsStop) throw new DOMException("", "AbortError");
      }
    }
  }

  /** Gathers what a call says, and shows it some times a second. */
  private listen(): { heard: (text: string) => void; close: () => void } {
    let now = SILENT;
    let timer = 0;
    return {
      heard: (text) => {
        now = { text: now.text + text, pieces: now.pieces + 1 };
        timer ||= setTimeout(() => {
          timer = 0;
          this.live.value = now;
        }, DRAW_MS);
      },
      close: () => {
        clearTimeout(timer);
        this.live.value = SILENT;
      },
    };
  }

  /** Another chat that begins as this one up to message `at`; its cache is a copy, so that nothing is decoded again. */
  async branch(at: number): Promise<Conversation> {
    const other = new Conversation({
      ...this.saved(),
      id: newId(),
      parent: this.id,
      cache: "",
      title: `${this.title.value} ⑂`,
      messages: this.messages.value.slice(0, at),
      changed: Date.now(),
    });
    if (this.cache && at > 0) {
      const cache = `console-${other.id}`;
      try {
        await call("copy_prompt_cache", { from: this.cache, to: cache });
        other.cache = cache;
      } catch (error) {
        if (error instanceof CallError && error.status !== 404) throw error; // gone: it goes in again
      }
    }
    return other;
  }
}

/** The longest beginning of an output with which a text ends. */
function keptPart(output: string, text: string): string {
  for (let n = output.length; n > 0; n--) if (text.endsWith(output.slice(0, n))) return output.slice(0, n);
  return "";
}
