// The page of the cost lab: what a template costs when it is warm, against another one.
import type { Signal } from "@preact/signals";
import { messageOf } from "./api";
import { number, percent, short, usdOf } from "./format";
import * as lab from "./lab";
import { current, denial, usdPerXdr } from "./session";
import { Countdown, Denied, Problem } from "./widgets";
import { t } from "./i18n";

const price = (cycles: number): string => (usdPerXdr.value ? usdOf(cycles, usdPerXdr.value) : `${short(cycles)} cycles`);

export function LabPage() {
  const isReady = current.value?.ready === true && !denial.value;
  const isBusy = lab.state.value !== "";
  const told = planned();
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Cost lab")}>
      <h1>{t("Cost lab")}</h1>
      <p>
        {t("What do prompts of a template cost? They are run for real, one behind another in a prompt cache of their own. The first warms the cache up; the others decode only what differs from the one before, so put what changes last.")}
      </p>
      {denial.value ? <Denied text={denial.value} /> : null}
      <form
        class="method"
        onSubmit={(event) => {
          event.preventDefault();
          void lab.run();
        }}
      >
        <div class="charts">
          {(["A", "B"] as const).map((side) => (
            <label key={side}>
              {t("Template {0}", side)} {side === "B" ? <span class="hint">{t("to compare with A; may be empty")}</span> : null}
              <textarea
                rows={4}
                spellcheck={false}
                value={lab.templates.value[side]}
                onInput={(event) => (lab.templates.value = { ...lab.templates.value, [side]: event.currentTarget.value })}
              />
            </label>
          ))}
        </div>
        <Text label={t("Variables, one a line: name = value | value")} rows={3} of={lab.variables} />
        <div class="row form">
          <label>
            {t("Answer tokens at most")}
            <input
              type="number"
              min="2"
              max="1000"
              value={lab.answerTokens.value}
              onChange={(event) => (lab.answerTokens.value = Math.max(2, event.currentTarget.valueAsNumber || 2))}
            />
          </label>
          <label>
            {t("A good answer contains")}{" "}<span class="hint">{t("may be empty")}</span>
            <input value={lab.wanted.value} onInput={(event) => (lab.wanted.value = event.currentTarget.value)} />
          </label>
          <label class="inline">
            <input type="checkbox" checked={lab.isChat.value} onChange={(event) => (lab.isChat.value = event.currentTarget.checked)} />
            {t("as a message, by the model’s chat template")}
          </label>
        </div>
        <p class="hint" role="status">
          {told}
        </p>
        <div class="actions">
          {isBusy ? (
            <button type="button" class="stop" onClick={lab.stop}>
              {lab.state.value === "stopping" ? t("Stopping…") : t("Stop")}
            </button>
          ) : (
            <button type="submit" class="primary" disabled={!isReady}>
              {t("Run")}
            </button>
          )}
        </div>
      </form>
      {lab.wait.value ? <Countdown wait={lab.wait.value} /> : null}
      {lab.problem.value ? <Problem error={lab.problem.value} /> : null}
      {lab.trials.value.A.length ? <Comparison /> : null}
      {(["A", "B"] as const).map((side) => (lab.trials.value[side].length ? <Trials key={side} side={side} /> : null))}
    </div>
  );
}

function Text({ label, rows, of }: { label: string; rows: number; of: Signal<string> }) {
  return (
    <label>
      {label}
      <textarea rows={rows} spellcheck={false} value={of.value} onInput={(event) => (of.value = event.currentTarget.value)} />
    </label>
  );
}

/** What a run would do, or why it cannot be done. */
function planned(): string {
  try {
    const values = lab.variablesOf(lab.variables.value);
    const counts = (["A", "B"] as const).map((side) => {
      const template = lab.templates.value[side];
      return template.trim() ? lab.promptsOf(template, values).length : 0;
    });
    return `${number(counts[0])} prompts of A, ${number(counts[1])} of B`;
  } catch (error) {
    return messageOf(error);
  }
}

function Comparison() {
  const [a, b] = [lab.sumsOf(lab.trials.value.A), lab.sumsOf(lab.trials.value.B)];
  const hasB = lab.trials.value.B.length > 0;
  const rows: [string, (of: lab.Sums) => number | null, (value: number) => string][] = [
    ["warm-up: the first prompt", (of) => of.warmUp?.cycles ?? null, price],
    ["steady: a later prompt, on average", (of) => of.steadyCycles, price],
    ["steady, 1,000 prompts", (of) => (of.steadyCycles === null ? null : 1000 * of.steadyCycles), price],
    ["steady instructions", (of) => of.steadyInstructions, short],
    ["fullest budget", (of) => of.fullest, percent],
    ["good answers", (of) => of.good, percent],
    ["cache found nothing", (of) => of.breaks, number],
  ];
  return (
    <>
      <h2>{t("What it costs")}</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label={t("Costs of the templates")}>
        <table class="sums">
          <thead>
            <tr>
              <th scope="col">
                <span class="sr">{t("what")}</span>
              </th>
              <th scope="col" class="n">
                A
              </th>
              {hasB ? (
                <>
                  <th scope="col" class="n">
                    B
                  </th>
                  <th scope="col" class="n">
                    {t("B against A")}
                  </th>
                </>
              ) : null}
            </tr>
          </thead>
          <tbody>
            {rows.map(([name, of, shown]) => {
              const [one, other] = [of(a), of(b)];
              const change = one && other !== null ? other / one - 1 : null;
              return (
                <tr key={name}>
                  <th scope="row">{t(name)}</th>
                  <td class="n">{one === null ? "–" : shown(one)}</td>
                  {hasB ? (
                    <>
                      <td class="n">{other === null ? "–" : shown(other)}</td>
                      <td class="n">{change === null ? "–" : `${change > 0 ? "+" : ""}${percentOf(change)}`}</td>
                    </>
                  ) : null}
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
    </>
  );
}

const percentOf = (change: number): string => `${(100 * change).toFixed(0)} %`;

function Trials({ side }: { side: lab.Side }) {
  return (
    <>
      <h2>{t("Prompts of {0}", side)}</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label={t("Prompts of {0}", side)}>
        <table class="trials">
          <thead>
            <tr>
              <th scope="col">{t("prompt")}</th>
              <th scope="col">{t("answer")}</th>
              <th scope="col" class="n">
                {t("calls")}
              </th>
              <th scope="col" class="n">
                {t("cached")}
              </th>
              <th scope="col" class="n">
                {t("in")}
              </th>
              <th scope="col" class="n">
                {t("out")}
              </th>
              <th scope="col" class="n">
                {t("budget")}
              </th>
              <th scope="col" class="n">
                {t("price")}
              </th>
            </tr>
          </thead>
          <tbody>
            {lab.trials.value[side].map((one, at) => (
              <tr key={at} class={one.problem ? "failed" : ""}>
                <td>{one.prompt.slice(-80)}</td>
                <td>
                  {one.problem || one.answer.slice(0, 120)}{" "}
                  {one.isGood === null ? null : <span class={`tag ${one.isGood ? "ok" : "err"}`}>{one.isGood ? t("good") : t("not good")}</span>}
                </td>
                <td class="n">{number(one.calls)}</td>
                <td class="n">{number(one.tokensCached)}</td>
                <td class="n">{number(one.tokensIn)}</td>
                <td class="n">{number(one.tokensOut)}</td>
                <td class="n">{percent(one.fullest)}</td>
                <td class="n">{price(one.cycles)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
