// What this browser is set to. It stays here, and no server learns of it.
import { effect, signal } from "@preact/signals";

export interface ChatSettings {
  temperature: number;
  answerTokens: number;
  /** At most so many answer tokens a call; 0: as many as its budget takes. */
  tokensPerCall: number;
}

export type Theme = "auto" | "light" | "dark";

const DEFAULTS: ChatSettings = { temperature: 0, answerTokens: 256, tokensPerCall: 0 };
const THEME = "canister.theme";
const CHAT = "canister.chat";

export function kept(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // a browser that keeps nothing
  }
}

export function keep(name: string, value: string): void {
  try {
    localStorage.setItem(name, value);
  } catch {
    // it holds for this page alone
  }
}

function settingsOf(text: string | null): ChatSettings {
  try {
    const found = JSON.parse(text ?? "{}") as Partial<Record<keyof ChatSettings, unknown>>;
    const of = (name: keyof ChatSettings): number => {
      const value = found[name];
      return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : DEFAULTS[name];
    };
    return { temperature: of("temperature"), answerTokens: of("answerTokens"), tokensPerCall: of("tokensPerCall") };
  } catch {
    return DEFAULTS;
  }
}

const before = kept(THEME);

export const theme = signal<Theme>(before === "light" || before === "dark" ? before : "auto");
/** The settings of a new chat. */
export const usual = signal<ChatSettings>(settingsOf(kept(CHAT)));

effect(() => keep(THEME, theme.value));
effect(() => keep(CHAT, JSON.stringify(usual.value)));
effect(() => {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
});
