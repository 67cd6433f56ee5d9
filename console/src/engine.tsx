// The engine: what it does at the moment, where chats live, and the calls that run and wait.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { canister } from "./api";
import { Line } from "./charts";
import { silence, useHappenings, type Report, type Work } from "./events";
import { bytes, milliseconds, number, short, shortPrincipal } from "./format";
import { modelKind, modelName } from "./session";
import { Denied, Problem, Tiles } from "./widgets";
import { t } from "./i18n";

const POINTS = 90;
const TICK_MS = 1000;

export function EnginePage() {
  const report = useSignal<Report | null>(null);
  const work = useSignal<Work | null>(null);
  const isDenied = useSignal(false);
  const rates = useSignal<[number, number][]>([]);
  const before = useRef<{ at: number; tokens: number } | null>(null);
  useHappenings((one) => {
    isDenied.value = one.engine === undefined;
    work.value = one.work ?? null;
    report.value = one.engine ?? null;
  });
  // Nothing is told while nothing happens, so the clock is here.
  useEffect(() => {
    const tick = (): void => {
      const total = report.value?.total;
      if (!total || document.hidden) {
        before.current = null;
        return;
      }
      const [at, tokens, from] = [Date.now(), total.rows + total.prompt_tokens, before.current];
      if (from && tokens >= from.tokens && at > from.at) {
        const rate = (1000 * (tokens - from.tokens)) / (at - from.at);
        rates.value = [...rates.value.slice(1 - POINTS), [at, rate]];
      }
      before.current = { at, tokens };
    };
    const timer = setInterval(tick, TICK_MS);
    return () => clearInterval(timer);
  }, [canister.value]);
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Engine")}>
      <h1>{t("Engine")}</h1>
      {silence.value ? <Problem error={silence.value} /> : null}
      {isDenied.value ? <Denied text={t("How the engine runs is for controllers and admins")} /> : null}
      {report.value?.model ? <Now report={report.value} rates={rates.value} /> : null}
      {report.value && !report.value.model ? (
        <p>{report.value.reason && report.value.reason !== "none" ? `${t("No model is loaded:")} ${report.value.reason}` : t("No model is loaded")}</p>
      ) : null}
      {work.value ? <CallsNow calls={work.value} /> : null}
    </div>
  );
}

function Now({ report, rates }: { report: Report; rates: [number, number][] }) {
  const { now, total, memory, speed } = report;
  const reused = total.reused_tokens;
  return (
    <>
      <p>
        <b>{modelName.value || report.model}</b> <span class="hint">{modelKind.value}</span> · {report.exact.is_exact ? t("exact") : t("not exact")}: {report.exact.why}
      </p>
      <Tiles
        tiles={[
          ["running", number(now.running)],
          ["waiting", number(now.waiting)],
          ["chats per step", total.row_steps ? (total.rows / total.row_steps).toFixed(2) : "–"],
          ["prompt tokens/s", speed.prompt_tokens_per_second ? number(speed.prompt_tokens_per_second) : "–"],
          ["answer tokens/s", speed.answer_tokens_per_second ? number(speed.answer_tokens_per_second) : "–"],
          ["longest pause of an answer", speed.longest_pause_ms ? milliseconds(speed.longest_pause_ms) : "–"],
          ["context", number(memory.context)],
          ["threads", number(report.threads.count)],
          ["busy", `${total.busy_seconds.toFixed(1)} s`],
          ["cancelled", number(total.cancelled)],
        ]}
      />
      <h2>{t("Where chats live")}</h2>
      <div class="tiers">
        <div>
          <h3>{t("slots of the model")}</h3>
          <ul class="slots" aria-label={t("Slots")}>
            {now.slots.map(({ state, tokens }, at) => (
              <li key={at} class={`slot ${state}`} title={t("{0}, {1} tokens", t(state), number(tokens))}>
                <span class="sr">{t("{0}, {1} tokens", t(state), number(tokens))}</span>
                <span aria-hidden="true">{state === "free" ? "–" : short(tokens)}</span>
                <span aria-hidden="true" class="filled" style={{ blockSize: `${Math.min(100, (100 * tokens) / memory.context)}%` }} />
              </li>
            ))}
          </ul>
          <p class="hint">
            {t("{0} tokens in the KV memory; the number of each slot is how many it holds.", number(now.kv_tokens))}
          </p>
          <p class="legend">
            {(["running", "resident", "free"] as const).map((state) => (
              <span key={state}>
                <i class={`slot ${state}`} /> {t(state)}
              </span>
            ))}
          </p>
        </div>
        <div>
          <h3>{t("memory")}</h3>
          <p>
            {t("{0} parked, {1}", number(now.parked), bytes(now.parked_bytes))}
          </p>
        </div>
        <div>
          <h3>{t("files")}</h3>
          <p>
            {t("every chat, {0} a token; see", bytes(memory.kv_bytes_per_token))}{" "}<a href="#/caches">{t("Caches")}</a>
          </p>
        </div>
      </div>
      <h2>{t("Tokens that need not be decoded again")}</h2>
      <Tiles
        tiles={[
          ["from slots", number(reused.slot)],
          ["from memory", number(reused.memory)],
          ["from files", number(reused.disk)],
          ["from other chats", number(reused.shared)],
        ]}
      />
      <div class="charts">
        <Line title={t("Tokens decoded a second")} unit={t("tokens")} points={rates} />
      </div>
    </>
  );
}

function CallsNow({ calls }: { calls: Work }) {
  return (
    <>
      <h2>{t("Calls")}</h2>
      {calls.running.length + calls.waiting.length === 0 ? <p class="hint">{t("No call is running or waiting.")}</p> : null}
      <ul class="plain">
        {calls.running.map((one, at) => (
          <li key={at}>
            <code>{one.method}</code> {one.phase} · {one.seconds.toFixed(1)} s · {shortPrincipal(one.caller)}
          </li>
        ))}
        {calls.waiting.map((one) => (
          <li key={one.caller}>
            {t("{0} wait their turn", number(one.calls))} · {shortPrincipal(one.caller)}
          </li>
        ))}
      </ul>
    </>
  );
}
