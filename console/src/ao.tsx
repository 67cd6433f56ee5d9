// AO: the processes that are here, what they answered, money, and programs tried out without a trace.
import { signal, useSignal } from "@preact/signals";
import { useAttempts, useReading } from "./attempts";
import { useEffect } from "preact/hooks";
import { ask, toJson } from "./api";
import { number, when } from "./format";
import { t } from "./i18n";
import { addressOf, send, spawn } from "./ao_item";
import { kept, make, type Identity } from "./identity";
import { CopyButton, Table } from "./widgets";

/** Who signs here: the identity of this browser, and its address. */
const own = signal<{ identity: Identity; address: string } | null>(null);
const MOST = 50;
const QUERY = `query { transactions(first: ${MOST}, tags: [{name: "Type", values: ["Process"]}]) {
  edges { node { id owner { address } tags { name value } } } } }`;

interface Tag {
  name: string;
  value: string;
}

interface Process {
  id: string;
  owner: string;
  tags: Tag[];
}

interface Result {
  Output?: string | { data?: unknown };
  Messages?: { Target: string; Tags: Tag[]; Data?: unknown }[];
  Spawns?: unknown[];
  Error?: string;
  GasUsed?: number;
}

interface Edge {
  node: Result;
  cursor: string;
}

const read = async <T,>(path: string): Promise<T> => (await ask<T>(path, undefined, { verb: "GET" })).value;
const tag = (tags: Tag[], name: string): string => tags.find((one) => one.name === name)?.value ?? "";
const textOf = (value: unknown): string => (typeof value === "string" ? value : value == null ? "" : toJson(value));

function outputOf({ Output, Error: error }: Result): string {
  if (error) return error;
  return typeof Output === "object" ? textOf(Output.data) : textOf(Output);
}

/** The slot and the time of a result, which its cursor has. */
function placeOf(cursor: string): { slot: string; ms: number } {
  try {
    const { ordinate, timestamp } = JSON.parse(atob(cursor)) as { ordinate: string; timestamp: number };
    return { slot: ordinate, ms: timestamp };
  } catch {
    return { slot: cursor, ms: 0 };
  }
}

export function AoPage() {
  const node = useSignal<Record<string, string> | null>(null);
  const processes = useSignal<Process[] | null>(null);
  const chosen = useSignal("");
  const { attempt, told } = useAttempts();
  const look = (): Promise<boolean> =>
    attempt(async () => {
      node.value = await read<Record<string, string>>("ao");
      const answer = await ask<{ data: { transactions: { edges: { node: { id: string; owner: { address: string }; tags: Tag[] } }[] } } }>(
        "graphql",
        { query: QUERY },
      );
      processes.value = answer.value.data.transactions.edges.map(({ node: one }) => ({ ...one, owner: one.owner.address }));
    });
  useReading(look);
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("AO")}>
      <h1>{t("AO")}</h1>
      {told}
      {node.value ? (
        <dl class="named">
          {Object.entries(node.value).map(([name, id]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>
                <code>{textOf(id)}</code> <CopyButton text={textOf(id)} />
              </dd>
            </div>
          ))}
        </dl>
      ) : null}
      <Own
        node={node.value ?? {}}
        made={(id) => {
          chosen.value = id;
          void look();
        }}
      />
      <Balance />
      <h2>{t("Processes")}</h2>
      <div class="actions">
        <button type="button" onClick={() => void look()}>
          {t("Refresh")}
        </button>
      </div>
      {processes.value?.length === 0 ? <p class="hint">{t("No process is here yet.")}</p> : null}
      {processes.value?.length ? (
        <Table label={t("Processes")} columns={[t("process"), t("name"), t("owner")]}>
          {processes.value.map((one) => (
            <tr key={one.id}>
              <td>
                <button
                  type="button"
                  class={`item ${one.id === chosen.value ? "current" : ""}`}
                  aria-pressed={one.id === chosen.value}
                  onClick={() => (chosen.value = one.id)}
                >
                  <code>{one.id}</code>
                </button>
              </td>
              <td>{tag(one.tags, "Name")}</td>
              <td>
                <code>{one.owner}</code>
              </td>
            </tr>
          ))}
        </Table>
      ) : null}
      <label class="inline">
        {t("Process")}
        <input spellcheck={false} value={chosen.value} onChange={(event) => (chosen.value = event.currentTarget.value.trim())} />
      </label>
      {chosen.value ? <ProcessView key={chosen.value} id={chosen.value} /> : null}
    </div>
  );
}

function Own({ node, made }: { node: Record<string, string>; made: (id: string) => void }) {
  const name = useSignal("");
  const { attempt, told } = useAttempts();
  const take = async (identity: Identity | null): Promise<void> => {
    own.value = identity ? { identity, address: await addressOf(identity) } : null;
  };
  useEffect(() => void kept().then(take, () => undefined), []);
  return (
    <section aria-label={t("Your wallet")}>
      <h2>{t("Your wallet")}</h2>
      {told}
      {own.value ? (
        <>
          <p>
            <code>{own.value.address}</code> <CopyButton text={own.value.address} />
          </p>
          <form
            class="row form"
            onSubmit={(event) => {
              event.preventDefault();
              const { identity } = own.value!;
              void attempt(async () => made(await spawn(identity, node, name.value.trim())));
            }}
          >
            <label>
              {t("Name of the process")}
              <input value={name.value} onInput={(event) => (name.value = event.currentTarget.value)} />
            </label>
            <button type="submit" class="primary">
              {t("Make a process")}
            </button>
          </form>
        </>
      ) : (
        <p>
          <button type="button" onClick={() => void attempt(async () => take(await make()))}>
            {t("Make the identity of this browser")}
          </button>
        </p>
      )}
    </section>
  );
}

function Balance() {
  const account = useSignal("");
  const amount = useSignal("");
  const found = useSignal<{ account: string; balance: string } | null>(null);
  const { attempt, told } = useAttempts("controller");
  const run = (act: () => Promise<{ account: string; balance: string }>): Promise<boolean> =>
    attempt(async () => (found.value = await act()));
  return (
    <section aria-label={t("Money")}>
      <h2>{t("Money")}</h2>
      <form
        class="row form"
        onSubmit={(event) => {
          event.preventDefault();
          void run(() => read(`ao/balance/${encodeURIComponent(account.value.trim())}`));
        }}
      >
        <label>
          {t("Account: an address or a process")}
          <input required spellcheck={false} value={account.value} onInput={(event) => (account.value = event.currentTarget.value)} />
        </label>
        <button type="submit">{t("Show the balance")}</button>
        <label>
          {t("Amount, in smallest units")}
          <input inputMode="numeric" value={amount.value} onInput={(event) => (amount.value = event.currentTarget.value)} />
        </label>
        <button
          type="button"
          disabled={!account.value || !amount.value}
          onClick={() =>
            void run(
              async () =>
                (await ask<{ account: string; balance: string }>("ao/mint", { account: account.value.trim(), amount: amount.value.trim() })).value,
            )
          }
        >
          {t("Mint")}
        </button>
      </form>
      {told}
      {found.value ? (
        <p role="status">
          <code>{found.value.account}</code>: {number(BigInt(found.value.balance))}
        </p>
      ) : null}
    </section>
  );
}

function ProcessView({ id }: { id: string }) {
  const edges = useSignal<Edge[] | null>(null);
  const { attempt, told } = useAttempts();
  const look = (): Promise<boolean> =>
    attempt(async () => {
      edges.value = (await read<{ edges: Edge[] }>(`cu/results/${encodeURIComponent(id)}?sort=DESC&limit=${MOST}`)).edges;
    });
  useReading(look, [id]);
  return (
    <section aria-label={t("The process")}>
      <Trial id={id} answered={() => void look()} />
      <h3>{t("What it answered, the newest first")}</h3>
      {told}
      {edges.value?.length === 0 ? <p class="hint">{t("No message has come yet.")}</p> : null}
      {edges.value?.length ? (
        <Table label={t("Results of the process")} kind="results" columns={[[t("slot"), "n"], t("time"), t("output"), t("messages that it sent"), [t("gas"), "n"]]}>
          {edges.value.map(({ node, cursor }) => {
            const { slot, ms } = placeOf(cursor);
            return (
              <tr key={cursor} class={node.Error ? "failed" : ""}>
                <td class="n">{slot}</td>
                <td>{ms ? when(BigInt(ms) * 1_000_000n) : ""}</td>
                <td>
                  <pre tabIndex={0}>{outputOf(node).slice(0, 2000)}</pre>
                </td>
                <td>
                  {(node.Messages ?? []).map((one) => `${tag(one.Tags, "Action") || "–"} → ${one.Target.slice(0, 12)}…`).join("; ")}
                </td>
                <td class="n">{number(node.GasUsed)}</td>
              </tr>
            );
          })}
        </Table>
      ) : null}
    </section>
  );
}

function Trial({ id, answered }: { id: string; answered: () => void }) {
  const action = useSignal("Eval");
  const data = useSignal("");
  const answer = useSignal<Result | null>(null);
  const { attempt, told } = useAttempts();
  const isBusy = useSignal(false);
  const run = async (isSigned: boolean): Promise<void> => {
    isBusy.value = true;
    answer.value = null;
    await attempt(async () => {
      if (isSigned && own.value) {
        answer.value = await send<Result>(own.value.identity, id, action.value, data.value);
        answered();
        return;
      }
      const message = { Id: "", Target: id, Owner: "", Data: data.value, Anchor: "0", Tags: [{ name: "Action", value: action.value }] };
      answer.value = (await ask<Result>(`cu/dry-run?process-id=${encodeURIComponent(id)}`, message)).value;
    });
    isBusy.value = false;
  };
  return (
    <form
      class="method"
      onSubmit={(event) => {
        event.preventDefault();
        void run(own.value !== null);
      }}
    >
      <h3>{t("Say something to it")}</h3>
      <p class="hint">{t("“Eval” runs Lua in a process of your own. Tried out, a message is signed by nobody, and nothing of it stays.")}</p>
      <label>
        {t("Action")}
        <input spellcheck={false} value={action.value} onInput={(event) => (action.value = event.currentTarget.value)} />
      </label>
      <label>
        {t("Data")}
        <textarea rows={4} class="code" spellcheck={false} value={data.value} onInput={(event) => (data.value = event.currentTarget.value)} />
      </label>
      <div class="actions">
        <button type="submit" class="primary" disabled={isBusy.value || own.value === null}>
          {t("Send, signed")}
        </button>
        <button type="button" disabled={isBusy.value} onClick={() => void run(false)}>
          {t("Try it out")}
        </button>
      </div>
      {told}
      {answer.value ? (
        <div role="status">
          <figure class={`answer ${answer.value.Error ? "problem" : ""}`}>
            <figcaption>
              {answer.value.Error ? t("error") : t("output")} · {t("{0} messages", number(answer.value.Messages?.length ?? 0))}
            </figcaption>
            <pre tabIndex={0}>{outputOf(answer.value)}</pre>
            {answer.value.Messages?.length ? <pre tabIndex={0}>{toJson(answer.value.Messages, 2)}</pre> : null}
          </figure>
        </div>
      ) : null}
    </form>
  );
}
