// Texts of the page in the language of its reader. A text is its own key, in English; what a language lacks is shown in
// English. {0}, {1} … stand for what is put in.
import { signal } from "@preact/signals";
import { keep, kept } from "./preferences";

export const LANGUAGES = { en: "English", de: "Deutsch", es: "Español", ja: "日本語", zh: "中文" } as const;

export type Language = keyof typeof LANGUAGES;
export type Texts = Record<string, string>;

const LANGUAGE = "canister.language";
const LOADERS: Record<Exclude<Language, "en">, () => Promise<{ texts: Texts }>> = {
  de: () => import("./lang/de"),
  es: () => import("./lang/es"),
  ja: () => import("./lang/ja"),
  zh: () => import("./lang/zh"),
};

const isKnown = (name: string): name is Language => name in LANGUAGES;

function preferred(): Language {
  const wanted = [kept(LANGUAGE) ?? "", ...navigator.languages.map((one) => one.slice(0, 2))];
  return wanted.find(isKnown) ?? "en";
}

export const language = signal<Language>("en");
const texts = signal<Texts>({});

/** Show the page in this language from now on. One that cannot be fetched leaves it as it is. */
export async function speak(name: Language): Promise<void> {
  try {
    texts.value = name === "en" ? {} : (await LOADERS[name]()).texts;
  } catch {
    return;
  }
  language.value = name;
  document.documentElement.lang = name;
}

export function choose(name: Language): Promise<void> {
  keep(LANGUAGE, name);
  return speak(name);
}

/** In the language that this browser asks for; the page is drawn when it is there. */
export const begin = (): Promise<void> => speak(preferred());

export function t(text: string, ...values: (string | number | bigint)[]): string {
  const found = texts.value[text] ?? text;
  return values.length ? found.replace(/\{(\d)\}/g, (whole, n: string) => String(values[Number(n)] ?? whole)) : found;
}
