// Small parts that pages share.
import { Component, type ComponentChildren, type ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { CallError, canister, type Cost, isForNow, messageOf, returns, type Wait, waitFor } from "./api";
import { number, percent, short } from "./format";
import { principal } from "./session";
import { t } from "./i18n";

const NEAR = 0.8;
const FULL = 0.97;

/** Instructions of a call against their limit: a bar with its number. */
export function Budget({ cost, isRunning = false }: { cost: Cost | null; isRunning?: boolean }) {
  if (!cost?.limit)
    return (
      <span class="budget">
        <span class="track" />
        <b>{cost ? short(cost.instructions) : isRunning ? "…" : "–"}</b>
      </span>
    );
  const part = cost.instructions / cost.limit;
  const told = t("{0} of {1} instructions", number(cost.instructions), number(cost.limit));
  return (
    <span class="budget" title={told}>
      <span
        class="track"
        role="meter"
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.min(100, Math.round(100 * part))}
        aria-label={told}
      >
        <span
          class={`fill ${part > FULL ? "full" : part > NEAR ? "near" : ""}`}
          style={{ inlineSize: `${Math.min(100, 100 * part)}%` }}
        />
      </span>
      <b>{percent(part)}</b>
    </span>
  );
}

/** Copies a text. Where a page may not use the clipboard (plain HTTP by a name), there is no button. */
export function CopyButton({ text, label = "Copy" }: { text: string; label?: string }) {
  const [isDone, setDone] = useState(false);
  if (!navigator.clipboard) return null;
  const copy = async (): Promise<void> => {
    await navigator.clipboard.writeText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return (
    <button type="button" class="quiet" onClick={() => void copy()}>
      {isDone ? t("Copied") : t(label)}
    </button>
  );
}

const KEPT_MS = 1000; // until the browser has begun to save it

/** Let the browser save a file that the page makes. */
export function saveAs(name: string, content: string, type: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}

interface ConfirmedGiven {
  /** What is asked before it is done. */
  question: string;
  act: () => unknown;
  /** For those who do not see what it stands beside. */
  label?: string;
  isQuiet?: boolean;
  disabled?: boolean;
  children: ComponentChildren;
}

/** A button for what cannot be undone: it asks first. */
export function Confirmed({ question, act, label, isQuiet = true, disabled = false, children }: ConfirmedGiven) {
  return (
    <button
      type="button"
      class={isQuiet ? "quiet" : ""}
      disabled={disabled}
      aria-label={label}
      onClick={() => {
        if (confirm(question)) void act();
      }}
    >
      {children}
    </button>
  );
}

const TICK_MS = 250;
const NO_ROOM = 507;

/** What a busy server said, how long it asks to wait, and a button for who does not want to. */
export function Countdown({ wait }: { wait: Wait }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), TICK_MS);
    return () => clearInterval(timer);
  }, []);
  return (
    <p class="countdown">
      {wait.why} · <span role="timer">{t("Next try in {0} s.", number(Math.max(0, Math.ceil((wait.until - now) / 1000))))}</span>{" "}
      <button type="button" onClick={wait.end}>
        {t("Try now")}
      </button>
    </p>
  );
}

/** Where the server was busy: look again when it asks to, or when somebody wants it. */
function Later({ error, again }: { error: CallError; again: () => unknown }) {
  const [wait, setWait] = useState<Wait | null>(null);
  useEffect(() => {
    const left = new AbortController();
    void waitFor(error, setWait, left.signal).then(() => left.signal.aborted || again());
    return () => left.abort();
  }, [error]);
  return wait ? <Countdown wait={wait} /> : null;
}

/** What went wrong, and what can be done about it. again: what failed, if it may be done again by itself. */
export function Problem({ error, needs, again }: { error: unknown; needs?: Needed; again?: () => unknown }) {
  if (again && isForNow(error)) return <Later error={error} again={again} />;
  if (error instanceof CallError && error.isDenied) return <Denied text={error.message} needs={needs ?? "admin"} />;
  return (
    <Failure requestId={error instanceof CallError ? error.requestId : ""}>
      {messageOf(error)}
      {error instanceof CallError && error.status === NO_ROOM ? (
        <span>
          {" "}
          {t("Make room by removing what is not needed:")} <a href="#/models">{t("Models")}</a>, <a href="#/caches">{t("Caches")}</a>
        </span>
      ) : null}
    </Failure>
  );
}

/** A text that tells what went wrong, with the id by which the server's log has it. */
export function Failure({ requestId = "", children }: { requestId?: string; children: ComponentChildren }) {
  return (
    <p class="problem" role="alert">
      {children}
      {requestId ? <span class="hint">{" "}{t("request {0}", requestId)}</span> : null}
    </p>
  );
}

export type Needed = "admin" | "controller";

/** The caller is known and may not do this: who can change that, and how. */
export function Denied({ text, needs = "admin" }: { text: string; needs?: Needed }) {
  const role = `'(record { "principal" = "${principal.value}"; role = variant { AdminUpdate }; note = "" })'`;
  if (needs === "controller")
    return (
      <div class="problem" role="alert">
        <p>{text}{t(". This is for controllers. One of them can make this caller another one:")}</p>
        <pre tabIndex={0}>{`canister settings update ${canister.value} --add-controller ${principal.value}`}</pre>
      </div>
    );
  return (
    <div class="problem" role="alert">
      <p>{text}{t(". This caller may not do that here. A controller of the canister can change it:")}</p>
      <pre tabIndex={0}>{`canister call ${canister.value} assignAdminRole ${role}`}</pre>
      <p>
        {t("AdminQuery reads, AdminUpdate also changes things. At access level 1 everybody with an API key may chat:")}{" "}
        <code>{`canister call ${canister.value} set_access '(record { level = 1 : nat16 })'`}</code>
      </p>
    </div>
  );
}

/** What fails in one page stays there, and is told. When a server that was away is back, the page is shown again. */
export class Boundary extends Component<{ children: ComponentChildren }, { error: unknown }> {
  override state = { error: null as unknown };
  private ignore = (): void => {};
  private readonly again = (): void => {
    if (this.state.error !== null) this.setState({ error: null });
  };
  override componentDidMount(): void {
    this.ignore = returns.subscribe(this.again);
  }
  override componentWillUnmount(): void {
    this.ignore();
  }
  override componentDidCatch(error: unknown): void {
    this.setState({ error });
  }
  override render() {
    if (this.state.error === null) return this.props.children;
    return (
      <div class="page">
        <Problem error={this.state.error} />
        <button type="button" onClick={this.again}>
          {t("Show the page again")}
        </button>
      </div>
    );
  }
}

export function Tiles({ tiles }: { tiles: [string, string | number][] }) {
  return (
    <dl class="tiles">
      {tiles.map(([name, value]) => (
        <div class="tile" key={name}>
          <dt>{t(name)}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** What stands above a column, with "n" where it has numbers. ACTIONS: the column of what can be done with a row. */
type Column = string | [string, "n"] | null;
export const ACTIONS = null;

/** A table that scrolls by itself where the page is narrow. children: its rows. */
export function Table({ label, columns, kind, children }: { label: string; columns: Column[]; kind?: string; children: ComponentChildren }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      <table class={kind}>
        <thead>
          <tr>
            {columns.map((column) => {
              const [title, kind] = Array.isArray(column) ? column : [column, undefined];
              return (
                <th key={title ?? ""} scope="col" class={kind}>
                  {title ?? <span class="sr">{t("what can be done")}</span>}
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

/** A component that is drawn again only when one of its properties is another: long chats stay quick. */
export function memo<P extends object>(draw: (properties: P) => ComponentChildren): ComponentType<P> {
  return class extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      const now = this.props as Record<string, unknown>;
      return Object.entries(next).some(([name, value]) => now[name] !== value);
    }
    override render(): ComponentChildren {
      return draw(this.props as P);
    }
  } as unknown as ComponentType<P>;
}
