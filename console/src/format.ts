// Numbers, sizes, times and money as people read them.

import { language } from "./i18n";

interface Formats {
  locale: string;
  compact: Intl.NumberFormat;
  whole: Intl.NumberFormat;
  nearDay: Intl.RelativeTimeFormat;
  day: Intl.DateTimeFormat;
  dayOfYear: Intl.DateTimeFormat;
}

const made = new Map<string, Formats>();

/** In the language of the page; of its kinds, the one that the browser asks for. */
function formats(): Formats {
  const name = language.value;
  let found = made.get(name);
  if (!found) {
    const locale = navigator.languages.find((one) => one.startsWith(name)) ?? name;
    const compact = new Intl.NumberFormat(locale, { notation: "compact", maximumFractionDigits: 1 });
    found = {
      locale,
      compact,
      whole: new Intl.NumberFormat(locale),
      nearDay: new Intl.RelativeTimeFormat(locale, { numeric: "auto" }),
      day: new Intl.DateTimeFormat(locale, { weekday: "long", day: "numeric", month: "long" }),
      dayOfYear: new Intl.DateTimeFormat(locale, { dateStyle: "long" }),
    };
    made.set(name, found);
  }
  return found;
}

const DASH = "–";

type Amount = number | bigint | null | undefined;

export const number = (n: Amount): string => (n == null ? DASH : formats().whole.format(n));
export const short = (n: Amount): string => (n == null ? DASH : formats().compact.format(n));

export function percent(part: number | null): string {
  return part == null || !Number.isFinite(part) ? DASH : `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %`;
}

export function bytes(n: Amount): string {
  if (n == null) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  let value = Number(n);
  while (value >= 1024 && i < units.length - 1) {
    value /= 1024;
    i++;
  }
  return `${i ? value.toFixed(value < 10 ? 2 : 1) : value} ${units[i]}`;
}

/** What cycles cost: 10¹² are an XDR, and `usdPerXdr` comes with every estimate of the server. */
export const usdOf = (cycles: number, usdPerXdr: number): string => usd((cycles / 1e12) * usdPerXdr);
export const usd = (amount: number): string => `$${amount === 0 ? "0" : amount.toPrecision(2)}`;

export function milliseconds(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 120_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}

export const when = (ns: number | bigint): string => new Date(Number(BigInt(ns) / 1_000_000n)).toLocaleString(formats().locale);

/** 12 characters are enough to tell principals apart. */
export const shortPrincipal = (text: string): string =>
  text.length < 20 ? text : `${text.slice(0, 11)}…${text.slice(-3)}`;

export const timeOf = (ms: number): string => new Date(ms).toLocaleTimeString(formats().locale);

/** The day of a time, in the browser's zone, as one speaks of it: today, yesterday, or its date. */
export function dayOf(ms: number, now = Date.now()): string {
  const [then, today] = [new Date(ms), new Date(now)];
  const midnight = (one: Date): number => Date.UTC(one.getFullYear(), one.getMonth(), one.getDate());
  const days = (midnight(today) - midnight(then)) / 86_400_000;
  const { locale, nearDay, day, dayOfYear } = formats();
  const isNear = days < 2; // a clock that was ahead does not make a day of its own
  const isThisYear = then.getFullYear() === today.getFullYear();
  const told = isNear ? nearDay.format(-Math.max(0, days), "day") : (isThisYear ? day : dayOfYear).format(then);
  return told.charAt(0).toLocaleUpperCase(locale) + told.slice(1);
}
