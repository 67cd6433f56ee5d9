// Lists that come by pages: the first one at once, the others when somebody wants them.
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { ask } from "./api";
import { t } from "./i18n";

const PAGE_ROWS = 100;
const MOST_ROWS = 10_000; // of one page, as the server has it

interface Listing<T> {
  /** What was read so far; null before. */
  rows: T[] | null;
  /** Read the list anew, as far as it is shown. Gives the answer, with what it has beside the rows. */
  look: () => Promise<Record<string, unknown>>;
  /** A button for the next page, where there is one. */
  more: (attempt: (act: () => Promise<unknown>) => unknown) => ComponentChildren;
}

/** path: of the list. field: of an answer, which has the rows. */
export function useListing<T>(path: string, field: string): Listing<T> {
  const rows = useSignal<T[] | null>(null);
  const next = useSignal<string | null>(null);
  const read = async (limit: number, after: string | null): Promise<Record<string, unknown>> => {
    const query = `?limit=${limit}${after === null ? "" : `&after=${encodeURIComponent(after)}`}`;
    const { value } = await ask<Record<string, unknown>>(path + query, undefined, { verb: "GET" });
    const found = value[field] as T[];
    rows.value = after === null ? found : [...(rows.value ?? []), ...found];
    next.value = (value.next as string | null | undefined) ?? null;
    return value;
  };
  return {
    rows: rows.value,
    look: () => read(Math.min(MOST_ROWS, Math.max(PAGE_ROWS, rows.value?.length ?? 0)), null),
    more: (attempt) =>
      next.value === null ? null : (
        <div class="actions">
          <button type="button" onClick={() => void attempt(() => read(PAGE_ROWS, next.value))}>
            {t("Show more")}
          </button>
        </div>
      ),
  };
}
