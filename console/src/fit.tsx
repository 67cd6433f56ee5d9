// Whether a model fits the Internet Computer, and what it costs there: its upload, loading it, an answer of it.
import { bytes, number, short, usd, usdOf } from "./format";
import { usdPerXdr } from "./session";
import { t } from "./i18n";

/** What is asked about. */
export const ANSWER = { prompt_tokens: 100, answer_tokens: 100 };

export interface Fit {
  n_ctx: number;
  fits: boolean;
  reasons: string[];
  loads: "yes" | "maybe" | "no";
  heap_bytes: number;
  heap_limit_bytes: number;
  largest_n_ctx: number;
  tokens_per_call: number;
  calls: number;
  usd: number;
  upload_cycles: number | bigint;
  load_instructions: number | bigint;
  load_cycles: number | bigint;
  load_seconds: number;
  estimated: string[];
}

const money = (cycles: number | bigint): string => (usdPerXdr.value ? usdOf(Number(cycles), usdPerXdr.value) : "–");

export const loadingTold = (fit: Fit): string =>
  t(
    "loading takes {0} instructions, {1} s, {2} cycles ({3})",
    short(fit.load_instructions),
    fit.load_seconds < 0.1 ? "< 0.1" : fit.load_seconds.toFixed(1),
    short(fit.load_cycles),
    money(fit.load_cycles),
  );

export const uploadTold = (fit: Fit): string => t("its upload takes {0} cycles ({1})", short(fit.upload_cycles), money(fit.upload_cycles));

export function Verdict({ fit }: { fit: Fit }) {
  const isMaybe = fit.fits && fit.loads === "maybe";
  return <span class={`tag ${fit.fits ? "ok" : "err"}`}>{isMaybe ? t("maybe") : fit.fits ? t("yes") : t("no")}</span>;
}

export const needsTold = (fit: Fit): string =>
  [
    fit.fits ? t("{0} of {1} heap", bytes(fit.heap_bytes), bytes(fit.heap_limit_bytes)) : fit.reasons.join("; "),
    t("context up to {0}", number(fit.largest_n_ctx)),
  ].join(" · ");

export const answerTold = (fit: Fit): string =>
  fit.calls === 1
    ? t("1 call")
    : t("{0} calls, {1} tokens each at most", number(fit.calls), number(fit.tokens_per_call));

/** Two cells of a table. A text: why it is not known. */
export function FitCells({ fit }: { fit: Fit | string | undefined }) {
  if (fit === undefined)
    return (
      <>
        <td>–</td>
        <td class="n">–</td>
      </>
    );
  if (typeof fit === "string")
    return (
      <td colSpan={2} class="hint">
        {fit}
      </td>
    );
  return (
    <>
      <td title={fit.estimated.join("\n")}>
        <Verdict fit={fit} /> <span class="hint">{needsTold(fit)}</span>
        <p class="hint">{loadingTold(fit)}</p>
      </td>
      <td class="n">
        {fit.calls ? usd(fit.usd) : "–"}
        {fit.calls ? <p class="hint">{answerTold(fit)}</p> : null}
      </td>
    </>
  );
}
