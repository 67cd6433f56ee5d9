// The log of the server, as far as the caller may see it: the newest lines of this run, and those that come.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ask, canister, canisterPath, sleep } from "./api";
import { number } from "./format";
import { Problem } from "./widgets";
import { t } from "./i18n";

const LOOK_MS = 2000;
const HIDDEN_MS = 15_000;
const SHOWN = 300;
const MOST = 2000;
const LEVELS = ["debug", "info", "warning", "error", "critical"];

interface Line {
  index: number;
  time_ns: number | bigint;
  text: string;
}

interface Told {
  index: number;
  time: string;
  level: string;
  event: string;
  rest: string;
}

function told({ index, text, time_ns }: Line): Told {
  const time = new Date(Number(time_ns) / 1e6).toISOString().slice(0, 19).replace("T", " ");
  try {
    const { level, event, timestamp: _timestamp, logger: _logger, ...more } = JSON.parse(text) as Record<string, unknown>;
    const rest = Object.entries(more).filter(([, value]) => value !== null);
    const shown = rest.map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : String(value)}`);
    return { index, time, level: String(level), event: String(event), rest: shown.join("  ") };
  } catch {
    return { index, time, level: "", event: text, rest: "" };
  }
}

export function LogsPage() {
  const lines = useSignal<Told[]>([]);
  const problem = useSignal<unknown>(null);
  const sought = useSignal("");
  const least = useSignal("debug");
  useEffect(() => {
    let isOver = false;
    let last = -1;
    lines.value = [];
    const look = async (): Promise<void> => {
      const path = canisterPath(`logs${last < 0 ? "" : `?since=${last}`}`);
      const found = (await ask<{ lines: Line[] }>(path, undefined, { verb: "GET" })).value.lines;
      if (isOver || !found.length) return;
      last = found.at(-1)!.index;
      lines.value = [...lines.value, ...found.map(told)].slice(-MOST);
    };
    const follow = async (): Promise<void> => {
      while (!isOver) {
        try {
          await look();
          problem.value = null;
        } catch (error) {
          problem.value = error;
          last = -1; // a server that was started again begins to count anew
          lines.value = [];
        }
        await sleep(document.hidden ? HIDDEN_MS : LOOK_MS);
      }
    };
    void follow();
    return () => {
      isOver = true;
    };
  }, [canister.value]);
  const low = sought.value.toLowerCase();
  const chosen = lines.value.filter(
    (one) =>
      (LEVELS.indexOf(one.level) < 0 || LEVELS.indexOf(one.level) >= LEVELS.indexOf(least.value)) &&
      (!low || `${one.event} ${one.rest}`.toLowerCase().includes(low)),
  );
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Logs")}>
      <h1>{t("Logs")}</h1>
      {problem.value ? <Problem error={problem.value} needs="controller" /> : null}
      <div class="row">
        <label class="inline">
          {t("Lowest level")}
          <select value={least.value} onChange={(event) => (least.value = event.currentTarget.value)}>
            {LEVELS.map((one) => (
              <option key={one} value={one}>
                {one}
              </option>
            ))}
          </select>
        </label>
        <label class="inline">
          {t("Search")}
          <input type="search" value={sought.value} onInput={(event) => (sought.value = event.currentTarget.value)} />
        </label>
        <span class="hint">
          {t("{0} of {1} lines", number(chosen.length), number(lines.value.length))}
        </span>
      </div>
      <div class="scroll" tabIndex={0} role="region" aria-label={t("Lines of the log, the newest first")}>
        <table class="log">
          <thead>
            <tr>
              <th scope="col">{t("time (UTC)")}</th>
              <th scope="col">{t("level")}</th>
              <th scope="col">{t("what")}</th>
            </tr>
          </thead>
          <tbody>
            {chosen
              .slice(-SHOWN)
              .reverse()
              .map((one) => (
                <tr key={one.index}>
                  <td class="time">{one.time}</td>
                  <td>
                    <span class={`tag ${one.level === "info" || one.level === "debug" ? "" : "err"}`}>{one.level || "–"}</span>
                  </td>
                  <td>
                    {one.event} <code class="hint">{one.rest}</code>
                  </td>
                </tr>
              ))}
          </tbody>
        </table>
      </div>
    </div>
  );
}
