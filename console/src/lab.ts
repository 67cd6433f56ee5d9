// The cost lab: prompts of a template and its variables, run for real in a prompt cache of their own, and what they cost.
//
// The first run of a template warms its cache up; the others find the common beginning there. Runs go on while other pages
// are shown, and their results stay.
import { signal } from "@preact/signals";
import { ask, call, CallError, canisterPath, isForNow, messageOf, type Wait, waitFor } from "./api";
import { newId } from "./conversation";
import { t } from "./i18n";

export const MOST_PROMPTS = 25;
const MOST_CALLS = 200; // of one prompt

export interface Trial {
  prompt: string;
  answer: string;
  calls: number;
  instructions: number;
  cycles: number;
  tokensIn: number;
  tokensCached: number;
  tokensOut: number;
  /** The fullest budget of its calls; null: not limited. */
  fullest: number | null;
  isGood: boolean | null;
  problem: string;
}

export type Side = "A" | "B";

export const templates = signal<Record<Side, string>>({ A: "You sort messages into good and bad.\nMessage: {{message}}\nThis message is", B: "" });
export const variables = signal("message = I like it | It broke | Thank you");
export const answerTokens = signal(16);
export const isChat = signal(true);
export const wanted = signal("");
export const trials = signal<Record<Side, Trial[]>>({ A: [], B: [] });
export const state = signal<"" | "running" | "stopping">("");
export const problem = signal<unknown>(null);
/** A busy server is waited for. */
export const wait = signal<Wait | null>(null);

const PLACE = /\{\{\s*([\w-]+)\s*\}\}/g;

/** `name = value | value`, a name a line. Raises an Error that shows the line. */
export function variablesOf(text: string): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const line of text.split("\n")) {
    if (!line.trim()) continue;
    const at = line.indexOf("=");
    const name = line.slice(0, at).trim();
    if (at < 0 || !/^[\w-]+$/.test(name)) throw new Error(t("“{0}” is no variable: write name = value | value.", line.trim()));
    found.set(
      name,
      line
        .slice(at + 1)
        .split("|")
        .map((value) => value.trim()),
    );
  }
  return found;
}

/** The template with each combination of its variables' values. Raises an Error. */
export function promptsOf(template: string, values: Map<string, string[]>): string[] {
  const names = [...new Set([...template.matchAll(PLACE)].map((match) => match[1]!))];
  let sets: Record<string, string>[] = [{}];
  for (const name of names) {
    const choices = values.get(name);
    if (!choices) throw new Error(t("The template has {{{0}}}, and no line gives it values.", name));
    sets = sets.flatMap((set) => choices.map((value) => ({ ...set, [name]: value })));
    if (sets.length > MOST_PROMPTS) throw new Error(t("More than {0} prompts: give fewer values.", MOST_PROMPTS));
  }
  return sets.map((set) => template.replace(PLACE, (_, name: string) => set[name] ?? ""));
}

export interface Sums {
  warmUp: Trial | null;
  /** Mean of the trials behind the first. */
  steadyCycles: number | null;
  steadyInstructions: number | null;
  fullest: number | null;
  good: number | null;
  /** Trials behind the first that found nothing in the cache. */
  breaks: number;
}

export function sumsOf(all: Trial[]): Sums {
  const done = all.filter((one) => !one.problem);
  const [warmUp = null, ...steady] = done;
  const mean = (of: (one: Trial) => number): number | null =>
    steady.length ? steady.reduce((sum, one) => sum + of(one), 0) / steady.length : null;
  const fullest = done.flatMap((one) => (one.fullest === null ? [] : [one.fullest]));
  const judged = done.filter((one) => one.isGood !== null);
  return {
    warmUp,
    steadyCycles: mean((one) => one.cycles),
    steadyInstructions: mean((one) => one.instructions),
    fullest: fullest.length ? Math.max(...fullest) : null,
    good: judged.length ? judged.filter((one) => one.isGood).length / judged.length : null,
    breaks: steady.filter((one) => one.tokensCached === 0).length,
  };
}

export function stop(): void {
  if (state.value) state.value = "stopping";
  wait.value?.end();
}

export async function run(): Promise<void> {
  if (state.value) return;
  problem.value = null;
  trials.value = { A: [], B: [] };
  state.value = "running";
  try {
    const values = variablesOf(variables.value);
    const sides = (["A", "B"] as const).filter((side) => templates.value[side].trim());
    if (sides.length === 0) throw new Error(t("Write a template first."));
    const plans = sides.map((side) => ({ side, prompts: promptsOf(templates.value[side], values) }));
    for (const { side, prompts } of plans) await runSide(side, prompts);
  } catch (error) {
    problem.value = error;
  } finally {
    state.value = "";
  }
}

async function runSide(side: Side, prompts: string[]): Promise<void> {
  const cache = `console-lab-${newId()}`;
  try {
    for (const prompt of prompts) {
      if (state.value === "stopping") return;
      const trial = await trialOf(prompt, cache);
      trials.value = { ...trials.value, [side]: [...trials.value[side], trial] };
    }
  } finally {
    await call("remove_prompt_cache", { args: ["--prompt-cache", cache] }).catch(() => undefined);
  }
}

async function trialOf(prompt: string, cache: string): Promise<Trial> {
  const told: Trial = {
    prompt,
    answer: "",
    calls: 0,
    instructions: 0,
    cycles: 0,
    tokensIn: 0,
    tokensCached: 0,
    tokensOut: 0,
    fullest: null,
    isGood: null,
    problem: "",
  };
  try {
    await runCalls(await rendered(prompt), cache, told);
    if (wanted.value) told.isGood = told.answer.toLowerCase().includes(wanted.value.toLowerCase());
  } catch (error) {
    if (error instanceof CallError && error.kind === "network") throw error;
    told.problem = messageOf(error);
  }
  return told;
}

async function rendered(prompt: string): Promise<string> {
  if (!isChat.value) return prompt;
  const messages = [{ role: "user", content: prompt }];
  return (await patiently(() => ask<{ prompt: string }>(canisterPath("apply-template"), { messages }))).value.prompt;
}

const isStopping = (): boolean => state.value === "stopping";

/** The answer of a server, which may be busy at first. */
async function patiently<T>(act: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await act();
    } catch (error) {
      if (!isForNow(error) || isStopping()) throw error;
      await waitFor(error, (told) => (wait.value = told));
      if (isStopping()) throw error;
    }
  }
}

async function runCalls(prompt: string, cache: string, told: Trial): Promise<void> {
  const flags = ["--prompt-cache", cache, "--prompt-cache-all", "--no-escape", "--temp", "0"];
  let left = answerTokens.value;
  let next = prompt;
  let base = -1;
  for (let n = 0; n < MOST_CALLS && left > 1 && state.value !== "stopping"; n++) {
    const args = [...flags, "-p", next, "-n", String(left)];
    const { value, cost } = await patiently(() => call("run_update", { args }));
    told.calls++;
    told.instructions += cost?.instructions ?? 0;
    told.cycles += cost?.cycles ?? 0;
    told.tokensIn += Number(value.n_prompt_tokens_decoded ?? 0);
    if (n === 0) told.tokensCached = Number(value.n_prompt_tokens_cached ?? 0);
    if (cost?.limit) told.fullest = Math.max(told.fullest ?? 0, cost.instructions / cost.limit);
    if (Number(value.n_prompt_tokens_remaining ?? 0)) continue;
    if (base < 0) base = value.conversation.length - keptLength(value.output, value.conversation);
    told.answer = value.conversation.slice(base).trim();
    told.tokensOut += Number(value.n_tokens_generated ?? 0);
    left -= Number(value.n_tokens_generated ?? 0);
    if (value.generated_eog || !value.n_tokens_generated) return;
    next = "";
  }
}

/** How much of an output a text ends with: a call shows a token more than it keeps. */
function keptLength(output: string, text: string): number {
  for (let n = output.length; n > 0; n--) if (text.endsWith(output.slice(0, n))) return n;
  return 0;
}
