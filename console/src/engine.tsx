// The engine: what it does at the moment, where chats live, and the calls that run and wait.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ask, canister, canisterPath, sleep } from "./api";
import { Line } from "./charts";
import { bytes, number, shortPrincipal } from "./format";
import { Problem, Tiles } from "./widgets";

const LOOK_MS = 2000;
const HIDDEN_MS = 15_000;
const POINTS = 90;

interface Report {
  model: string;
  exact: { is_exact: boolean; why: string };
  threads: { count: number; why: string };
  memory: { slots: number; context: number; kv_bytes_per_token: number };
  now: { resident: number; running: number; waiting: number; parked: number; parked_bytes: number };
  total: { row_steps: number; rows: number; prompt_tokens: number; busy_seconds: number; cancelled: number };
}

interface Running {
  caller: string;
  method: string;
  phase: string;
  seconds: number;
}

interface Calls {
  running: Running[];
  waiting: { caller: string; calls: number }[];
}

export function EnginePage() {
  const report = useSignal<Report | null>(null);
  const calls = useSignal<Calls | null>(null);
  const problem = useSignal<unknown>(null);
  const rates = useSignal<[number, number][]>([]);
  useEffect(() => {
    let isOver = false;
    let before: { at: number; tokens: number } | null = null;
    const look = async (): Promise<void> => {
      const found = (await ask<Report>(canisterPath("engine"), undefined, { verb: "GET" })).value;
      const [at, tokens] = [Date.now(), found.total.rows + found.total.prompt_tokens];
      if (before && tokens >= before.tokens) {
        const rate = (1000 * (tokens - before.tokens)) / Math.max(1, at - before.at);
        rates.value = [...rates.value.slice(1 - POINTS), [at, rate]];
      }
      before = { at, tokens };
      report.value = found;
      calls.value = (await ask<Calls>(canisterPath("calls"), undefined, { verb: "GET" })).value;
    };
    const follow = async (): Promise<void> => {
      while (!isOver) {
        try {
          await look();
          problem.value = null;
        } catch (error) {
          problem.value = error;
        }
        await sleep(document.hidden ? HIDDEN_MS : LOOK_MS);
      }
    };
    void follow();
    return () => {
      isOver = true;
    };
  }, [canister.value]);
  return (
    <div class="page" tabIndex={0} role="region" aria-label="Engine">
      <h1>Engine</h1>
      {problem.value ? <Problem error={problem.value} /> : null}
      {report.value ? <Now report={report.value} rates={rates.value} /> : null}
      {calls.value ? <CallsNow calls={calls.value} /> : null}
    </div>
  );
}

function Now({ report, rates }: { report: Report; rates: [number, number][] }) {
  const { now, total, memory } = report;
  const states = Array.from({ length: memory.slots }, (_, at) =>
    at < now.running ? "running" : at < now.resident ? "resident" : "free",
  );
  return (
    <>
      <p>
        <b>{report.model}</b> · {report.exact.is_exact ? "exact" : "not exact"}: {report.exact.why}
      </p>
      <Tiles
        tiles={[
          ["running", number(now.running)],
          ["waiting", number(now.waiting)],
          ["threads", number(report.threads.count)],
          ["context", number(memory.context)],
          ["chats per step", total.row_steps ? (total.rows / total.row_steps).toFixed(2) : "–"],
          ["busy", `${total.busy_seconds.toFixed(1)} s`],
          ["cancelled", number(total.cancelled)],
        ]}
      />
      <h2>Where chats live</h2>
      <div class="tiers">
        <div>
          <h3>slots of the model</h3>
          <ul class="slots" aria-label="Slots">
            {states.map((state, at) => (
              <li key={at} class={`slot ${state}`} title={state}>
                {at}
                <span class="sr"> {state}</span>
              </li>
            ))}
          </ul>
        </div>
        <div>
          <h3>memory</h3>
          <p>
            {number(now.parked)} parked, {bytes(now.parked_bytes)}
          </p>
        </div>
        <div>
          <h3>files</h3>
          <p>
            every chat, {bytes(memory.kv_bytes_per_token)} a token; see <a href="#/caches">Caches</a>
          </p>
        </div>
      </div>
      <div class="charts">
        <Line title="Tokens decoded a second" unit="tokens" points={rates} />
      </div>
    </>
  );
}

function CallsNow({ calls }: { calls: Calls }) {
  return (
    <>
      <h2>Calls</h2>
      {calls.running.length + calls.waiting.length === 0 ? <p class="hint">None runs, and none waits.</p> : null}
      <ul class="plain">
        {calls.running.map((one, at) => (
          <li key={at}>
            <code>{one.method}</code> {one.phase} · {one.seconds.toFixed(1)} s · {shortPrincipal(one.caller)}
          </li>
        ))}
        {calls.waiting.map((one) => (
          <li key={one.caller}>
            {number(one.calls)} wait their turn · {shortPrincipal(one.caller)}
          </li>
        ))}
      </ul>
    </>
  );
}
