// Markdown, whose parser comes when the first text needs it: until then a text stands there as it is.
import { signal } from "@preact/signals";
import type { ComponentType } from "preact";

const Parsed = signal<ComponentType<{ text: string }> | null>(null);
let isAsked = false;

/** Fetch the parser, if it was not. A text that cannot be parsed stays as it is, and the next one asks again. */
export function fetchParser(): void {
  if (isAsked) return;
  isAsked = true;
  import("./parsed").then(
    (found) => (Parsed.value = found.Parsed),
    () => (isAsked = false),
  );
}

export function Markdown({ text }: { text: string }) {
  fetchParser();
  return Parsed.value ? <Parsed.value text={text} /> : <div class="unparsed">{text}</div>;
}
