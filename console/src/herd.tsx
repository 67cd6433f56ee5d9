// The herd: its workers and what they do, the queue by price, fees, and the caller's money.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ask, CallError, canister, sleep } from "./api";
import { useAttempts } from "./attempts";
import { number, percent, shortPrincipal } from "./format";
import { ACTIONS, Confirmed, Problem, Table, Tiles } from "./widgets";
import { t } from "./i18n";

const LOOK_MS = 2000;
const HIDDEN_MS = 15_000;
const MOST_JOBS = 100; // the dearest ones

interface Info {
  base_fee: string;
  token_fee: string;
  last_multiplier: number | null;
  queue_length: number;
  workers: number;
}

interface Worker {
  id: string;
  generation: number;
  phase: string;
  url: string;
  version: string | null;
  jobs: { id: string; caller: string; method: string; tries: number }[];
  done: number;
  call_seconds: number;
  canisters: { name: string; rev: number; model: string | null; slots: number; prefill_tps: number | null; decode_tps: number | null }[];
  refusal?: string;
}

interface Status {
  epoch: number;
  workers: Worker[];
  jobs: { waiting: number; running: number };
  queue: { multiplier: number; jobs: number }[];
  last_multiplier: number | null;
  money: { minted: string; free: string; held: string };
}

/** Of the paid queue; the caller's own, and those of all for controllers. */
interface Paid {
  id: string;
  caller: string;
  status: "queued" | "running";
  fee: string;
  multiplier: number;
}

const read = async <T,>(path: string): Promise<T> => (await ask<T>(path, undefined, { verb: "GET" })).value;

export function HerdPage() {
  const info = useSignal<Info | null>(null);
  const status = useSignal<Status | null>(null);
  const balance = useSignal<{ free: string; held: string } | null>(null);
  const paid = useSignal<Paid[]>([]);
  const problem = useSignal<unknown>(null);
  const isControllers = useSignal(false);
  useEffect(() => {
    let isOver = false;
    const look = async (): Promise<void> => {
      info.value = await read<Info>("herd/info");
      balance.value = await read<{ free: string; held: string }>("herd/balance");
      paid.value = (await read<{ jobs: Paid[] }>(`herd/inference?limit=${MOST_JOBS}&canister=${encodeURIComponent(canister.value)}`)).jobs;
      try {
        status.value = await read<Status>("herd/status");
      } catch (error) {
        if (!(error instanceof CallError && [401, 403].includes(error.status))) throw error;
        isControllers.value = true;
      }
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
  const { attempt, told } = useAttempts("controller");
  const drain = (worker: string): Promise<boolean> =>
    attempt(async () => {
      await ask("herd/drain", { worker });
      status.value = await read<Status>("herd/status");
    });
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Herd")}>
      <h1>{t("Herd")}</h1>
      {problem.value ? <Problem error={problem.value} /> : null}
      {told}
      {info.value ? (
        <Tiles
          tiles={[
            ["workers", number(info.value.workers)],
            ["waiting jobs", number(info.value.queue_length)],
            ["base fee", number(BigInt(info.value.base_fee))],
            ["fee per token", number(BigInt(info.value.token_fee))],
            ["last multiplier", info.value.last_multiplier === null ? "–" : `× ${info.value.last_multiplier}`],
            ["your balance", balance.value ? number(BigInt(balance.value.free)) : "–"],
            ["held", balance.value ? number(BigInt(balance.value.held)) : "–"],
          ]}
        />
      ) : null}
      <PaidJobs jobs={paid.value} raised={(job) => (paid.value = paid.value.map((one) => (one.id === job.id ? job : one)))} />
      {isControllers.value ? <p class="hint">{t("Workers and queue are for the controllers of the herd.")}</p> : null}
      {status.value ? (
        <>
          <Workers workers={status.value.workers} drain={drain} />
          <Queue queue={status.value.queue} jobs={status.value.jobs} />
        </>
      ) : null}
    </div>
  );
}

/** What a worker does: the method and its caller, and which try it is. */
function toldJob(job: Worker["jobs"][number]): string {
  const told = t("{0} of {1}", job.method, shortPrincipal(job.caller));
  return job.tries > 1 ? `${told}, ${t("try {0}", job.tries)}` : told;
}

/** Where a worker is. The path of a socket says nothing but where the herd has its folder. */
function Place({ url }: { url: string }) {
  const isSocket = url.startsWith("unix:");
  return (
    <span class="hint" title={isSocket ? url : ""}>
      {isSocket ? t("on this machine") : url}
    </span>
  );
}

function Workers({ workers, drain }: { workers: Worker[]; drain: (id: string) => Promise<boolean> }) {
  return (
    <>
      <h2>{t("Workers")}</h2>
      <Table label={t("Workers of the herd")} columns={[t("worker"), t("state"), t("what it does"), [t("done"), "n"], [t("slots"), "n"], [t("prompt tokens/s"), "n"], [t("answer tokens/s"), "n"], ACTIONS]}>
        {workers.map((one) => (
          <tr key={one.id}>
            <td>
              <code>{one.id}</code> <Place url={one.url} />
            </td>
            <td>
              <span class={`tag ${one.phase === "ready" ? "ok" : ""}`}>{one.phase}</span>
              {one.refusal ? <p class="hint">{one.refusal}</p> : null}
            </td>
            <td>
              {one.jobs.length
                ? one.jobs.map(toldJob).join("; ")
                : "–"}
            </td>
            <td class="n">{number(one.done)}</td>
            <td class="n">{number(one.canisters[0]?.slots)}</td>
            <td class="n">{number(one.canisters[0]?.prefill_tps)}</td>
            <td class="n">{number(one.canisters[0]?.decode_tps)}</td>
            <td class="n">
              <Confirmed
                question={t("Give {0} no more jobs? What it runs is finished.", one.id)}
                label={t("Drain the worker {0}", one.id)}
                disabled={one.phase === "draining" || one.phase === "ended"}
                act={() => drain(one.id)}
              >
                {t("Drain")}
              </Confirmed>
            </td>
          </tr>
        ))}
      </Table>
    </>
  );
}

/** Jobs that are paid for and not answered yet. More can be paid for one that waits. */
function PaidJobs({ jobs, raised }: { jobs: Paid[]; raised: (job: Paid) => void }) {
  const { attempt, isRefused, told } = useAttempts();
  const raise = (job: Paid, fee: string): Promise<boolean> =>
    attempt(async () => raised((await ask<Paid>(`herd/inference/${job.id}/fee`, { fee })).value));
  if (!jobs.length && !isRefused) return null;
  return (
    <>
      <h2>{t("Paid jobs")}</h2>
      {told}
      <Table label={t("Paid jobs")} columns={[t("job"), t("caller"), t("state"), [t("fee"), "n"], [t("multiplier"), "n"], ACTIONS]}>
        {jobs.map((job) => (
          <tr key={job.id}>
            <td>
              <code title={job.id}>{job.id.slice(0, 8)}</code>
            </td>
            <td>
              <code title={job.caller}>{shortPrincipal(job.caller)}</code>
            </td>
            <td>{job.status === "queued" ? t("waiting") : t("running")}</td>
            <td class="n">{number(BigInt(job.fee))}</td>
            <td class="n">× {job.multiplier}</td>
            <td>
              {job.status === "queued" ? (
                <form
                  class="row"
                  onSubmit={(event) => {
                    event.preventDefault();
                    void raise(job, String(new FormData(event.currentTarget).get("fee")));
                  }}
                >
                  <input
                    name="fee"
                    required
                    inputMode="numeric"
                    pattern="[0-9]+"
                    size={10}
                    defaultValue={String(2n * BigInt(job.fee))}
                    aria-label={t("Fee of the job {0}, in all", job.id.slice(0, 8))}
                  />
                  <button type="submit">{t("Pay more")}</button>
                </form>
              ) : null}
            </td>
          </tr>
        ))}
      </Table>
    </>
  );
}

function Queue({ queue, jobs }: { queue: Status["queue"]; jobs: Status["jobs"] }) {
  const all = queue.reduce((sum, one) => sum + one.jobs, 0);
  return (
    <>
      <h2>{t("Queue by price")}</h2>
      <p class="hint">
        {t("{0} running, {1} waiting. Who pays more is served first.", number(jobs.running), number(jobs.waiting))}
      </p>
      {queue.length ? (
        <Table label={t("Queue by price")} columns={[t("multiplier"), [t("jobs"), "n"], t("part of the queue")]}>
          {queue.map((one) => (
            <tr key={one.multiplier}>
              <td>× {one.multiplier}</td>
              <td class="n">{number(one.jobs)}</td>
              <td>
                <meter min={0} max={all} value={one.jobs} aria-label={t("Part of the jobs at × {0}", one.multiplier)} />{" "}
                {percent(one.jobs / all)}
              </td>
            </tr>
          ))}
        </Table>
      ) : (
        <p>{t("Nothing is waiting.")}</p>
      )}
    </>
  );
}
