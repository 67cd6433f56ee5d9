// What calls cost: the log of calls, its sums, instructions by part against the limit, cycles over time.
import { useSignal } from "@preact/signals";
import { call } from "./api";
import { useReading } from "./attempts";
import { answersIn } from "./call_log";
import { Bars, Histogram, Line } from "./charts";
import { csvOf } from "./csv";
import { useHappenings } from "./events";
import { number, percent, short, usdOf, when } from "./format";
import type { CallLogEntry } from "./interface";
import { usdPerXdr } from "./session";
import { Budget, Problem, saveAs, Tiles } from "./widgets";
import { t } from "./i18n";

const MOST_ENTRIES = 500;
const SHOWN = 100;
const BARS = 60;
const TOKENS = ["prompt", "answer"] as const;

const sumOf = (entries: CallLogEntry[], of: (one: CallLogEntry) => number): number => entries.reduce((sum, one) => sum + of(one), 0);

export function CostsPage() {
  const entries = useSignal<CallLogEntry[] | null>(null);
  const problem = useSignal<unknown>(null);
  const method = useSignal("");
  const outcome = useSignal("");
  const look = async (): Promise<void> => {
    try {
      entries.value = (await call("get_call_log", { max_entries: MOST_ENTRIES })).value;
      problem.value = null;
    } catch (error) {
      problem.value = error;
    }
  };
  useReading(look);
  useHappenings(({ at, calls, missed }) => {
    const isBehind = entries.value !== null && calls.length === 0 && at > Number(entries.value[0]?.id ?? 0);
    if (missed || isBehind) void look();
    else if (calls.length && entries.value) {
      const known = new Set(entries.value.map((one) => one.id));
      const fresh = calls.filter((one) => !known.has(one.id)).reverse();
      if (fresh.length) entries.value = [...fresh, ...entries.value].slice(0, MOST_ENTRIES);
    }
  });
  const all = entries.value ?? [];
  const chosen = all.filter(
    (one) => (!method.value || one.method === method.value) && (!outcome.value || one.outcome === outcome.value),
  );
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Costs")}>
      <h1>{t("Costs")}</h1>
      {problem.value ? <Problem error={problem.value} again={look} /> : null}
      {entries.value === null && !problem.value ? <p class="hint">{t("Loading the log…")}</p> : null}
      {entries.value ? (
        <>
          <div class="row">
            <Choice label={t("Method")} of={all.map((one) => one.method)} chosen={method.value} set={(to) => (method.value = to)} />
            <Choice label={t("Outcome")} of={all.map((one) => one.outcome)} chosen={outcome.value} set={(to) => (outcome.value = to)} />
            <button type="button" onClick={() => void look()}>
              {t("Refresh")}
            </button>
            <button type="button" disabled={chosen.length === 0} onClick={() => save(chosen)}>
              {t("Save as CSV")}
            </button>
          </div>
          {all.length ? (
            <>
              <Sums entries={chosen} />
              <Log entries={chosen} />
            </>
          ) : (
            <p class="hint">{t("No call is in the log yet.")}</p>
          )}
        </>
      ) : null}
    </div>
  );
}

function Choice({ label, of, chosen, set }: { label: string; of: string[]; chosen: string; set: (to: string) => void }) {
  return (
    <label class="inline">
      {label}
      <select value={chosen} onChange={(event) => set(event.currentTarget.value)}>
        <option value="">{t("all")}</option>
        {[...new Set(of)].sort().map((one) => (
          <option key={one} value={one}>
            {one}
          </option>
        ))}
      </select>
    </label>
  );
}

function Sums({ entries }: { entries: CallLogEntry[] }) {
  const oldest = entries.toReversed();
  const runs = oldest.filter((one) => one.method === "run_update").slice(-BARS);
  const decoding = oldest.filter((one) => one.n_tokens_generated !== null).slice(-BARS);
  const byPart = new Map<string, number>();
  for (const run of runs)
    for (const { part, instructions } of run.parts) byPart.set(part, (byPart.get(part) ?? 0) + Number(instructions));
  const names = [...byPart]
    .sort((a, b) => b[1] - a[1])
    .slice(0, 6)
    .map(([name]) => name);
  let sum = 0;
  const points = oldest.map((one): [number, number] => [Number(one.timestamp_ns) / 1e6, (sum += Number(one.cycles))]);
  const decoded = sumOf(oldest, (one) => (one.n_tokens_generated === null ? 0 : Number(one.cycles)));
  const answers = answersIn(oldest);
  const limit = runs.at(-1)?.limit ?? null;
  const fullest = Math.max(0, ...runs.map((one) => (one.limit ? Number(one.instructions) / Number(one.limit) : 0)));
  return (
    <>
      <Tiles
        tiles={[
          ["calls", number(entries.length)],
          ["instructions", short(sumOf(entries, (one) => Number(one.instructions)))],
          ["cycles", short(sumOf(entries, (one) => Number(one.cycles)))],
          ["price", price(sum)],
          ["price of 1,000 answers", answers ? price((1000 * decoded) / answers) : "–"],
          ["price of 1,000 such calls", entries.length ? price((1000 * sum) / entries.length) : "–"],
          ["fullest budget", percent(fullest)],
        ]}
      />
      <div class="charts">
        <Bars
          title={t("Instructions of each run_update")}
          unit={t("instructions")}
          names={names}
          limit={limit === null ? null : Number(limit)}
          rows={runs.map((one) => ({
            label: `${t("call")} ${one.id}`,
            values: Object.fromEntries(one.parts.map(({ part, instructions }) => [part, Number(instructions)])),
          }))}
        />
        <Bars
          title={t("Tokens of each call")}
          unit={t("tokens")}
          names={TOKENS.map((name) => t(name))}
          limit={null}
          rows={decoding.map((one) => ({
            label: `${t("call")} ${one.id}`,
            values: {
              [t(TOKENS[0])]: Number(one.n_prompt_tokens_decoded),
              [t(TOKENS[1])]: Number(one.n_tokens_generated),
            },
          }))}
        />
        <Line title={t("Cycles, added up")} unit={t("cycles")} points={points} />
        <Histogram
          title={t("Headroom: how full budgets were")}
          unit={t("calls")}
          values={runs.flatMap((one) => (one.limit ? [Number(one.instructions) / Number(one.limit)] : []))}
        />
      </div>
    </>
  );
}

const price = (cycles: number): string => (usdPerXdr.value ? usdOf(cycles, usdPerXdr.value) : `${short(cycles)} cycles`);

function Log({ entries }: { entries: CallLogEntry[] }) {
  return (
    <>
      <h2>{t("Calls")}</h2>
      {entries.length > SHOWN ? <p class="hint">{t("The newest {0}; the CSV has all {1}.", number(SHOWN), number(entries.length))}</p> : null}
      <div class="scroll" tabIndex={0} role="region" aria-label={t("Log of calls")}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t("id")}</th>
              <th scope="col">{t("time")}</th>
              <th scope="col">{t("method")}</th>
              <th scope="col">{t("outcome")}</th>
              <th scope="col">{t("budget")}</th>
              <th scope="col" class="n">
                {t("in")}
              </th>
              <th scope="col" class="n">
                {t("out")}
              </th>
              <th scope="col" class="n">
                {t("instructions")}
              </th>
              <th scope="col" class="n">
                {t("cycles")}
              </th>
              <th scope="col" class="n">
                {t("price")}
              </th>
            </tr>
          </thead>
          <tbody>
            {entries.slice(0, SHOWN).map((one) => (
              <tr key={String(one.id)}>
                <td>{String(one.id)}</td>
                <td>{when(one.timestamp_ns)}</td>
                <td>
                  <code>{one.method}</code>
                </td>
                <td>
                  <span class={`tag ${one.outcome}`}>{one.outcome}</span>
                </td>
                <td>
                  <Budget
                    cost={{
                      instructions: Number(one.instructions),
                      cycles: Number(one.cycles),
                      limit: one.limit === null ? null : Number(one.limit),
                    }}
                  />
                </td>
                <td class="n">{number(one.n_prompt_tokens_decoded)}</td>
                <td class="n">{number(one.n_tokens_generated)}</td>
                <td class="n">{number(one.instructions)}</td>
                <td class="n">{number(one.cycles)}</td>
                <td class="n">{price(Number(one.cycles))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

const COLUMNS = [
  ...(["id", "timestamp_ns", "caller", "method", "outcome", "instructions", "cycles", "limit"] as const),
  ...(["n_prompt_tokens_decoded", "n_tokens_generated"] as const),
];

const save = (entries: CallLogEntry[]): void => saveAs("calls.csv", csvOf(COLUMNS, entries), "text/csv");
