// Settings: of this browser, and those of the canister that are no matter of access.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ask, call, canister, canisterPath } from "./api";
import { useAttempts, useReading } from "./attempts";
import { toHex } from "./bytes";
import { conversations, forget } from "./chats";
import { milliseconds, number } from "./format";
import { forget as forgetIdentity, kept, type Identity } from "./identity";
import { theme, usual, type ChatSettings, type Theme } from "./preferences";
import { Confirmed, CopyButton } from "./widgets";
import { choose, language, LANGUAGES, t, type Language } from "./i18n";

const THEMES: [Theme, string][] = [
  ["auto", "As the system"],
  ["light", "Light"],
  ["dark", "Dark"],
];

export function SettingsPage() {
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Settings")}>
      <h1>{t("Settings")}</h1>
      <OfBrowser />
      <OfIdentity />
      <OfCanister />
    </div>
  );
}

interface NumberGiven {
  label: string;
  value: number;
  least?: number;
  step?: number;
  set: (to: number) => void;
}

function NumberField({ label, value, least = 0, step = 1, set }: NumberGiven) {
  return (
    <label>
      {label}
      <input
        type="number"
        min={least}
        step={step}
        value={value}
        onChange={(event) => {
          const found = event.currentTarget.valueAsNumber;
          if (Number.isFinite(found) && found >= least) set(found);
          else event.currentTarget.value = String(value);
        }}
      />
    </label>
  );
}

function OfBrowser() {
  const change = (what: Partial<ChatSettings>): void => {
    usual.value = { ...usual.value, ...what };
  };
  const idle = conversations.value.filter((one) => !one.busy.value);
  return (
    <section aria-label={t("This browser")}>
      <h2>{t("This browser")}</h2>
      <fieldset>
        <legend>{t("Colours")}</legend>
        {THEMES.map(([name, title]) => (
          <label key={name} class="inline">
            <input type="radio" name="theme" checked={theme.value === name} onChange={() => (theme.value = name)} /> {t(title)}
          </label>
        ))}
      </fieldset>
      <Languages />
      <h3>{t("A new chat begins with")}</h3>
      <div class="row form">
        <NumberField label={t("Temperature")} step={0.1} value={usual.value.temperature} set={(to) => change({ temperature: to })} />
        <NumberField label={t("Answer tokens at most")} least={2} value={usual.value.answerTokens} set={(to) => change({ answerTokens: to })} />
        <NumberField
          label={t("Answer tokens a call (0: as many as fit)")}
          value={usual.value.tokensPerCall}
          set={(to) => change({ tokensPerCall: to })}
        />
      </div>
      <Confirmed
        question={t("Forget {0} chats and their prompt caches? Export them first if you want them again.", idle.length)}
        isQuiet={false}
        disabled={idle.length === 0}
        act={() => idle.map(forget)}
      >
        {t("Forget all chats ({0})", number(idle.length))}
      </Confirmed>
    </section>
  );
}

function Languages() {
  return (
    <label class="inline">
      {t("Language")}
      <select value={language.value} onChange={(event) => void choose(event.currentTarget.value as Language)}>
        {Object.entries(LANGUAGES).map(([name, title]) => (
          <option key={name} value={name} lang={name}>
            {title}
          </option>
        ))}
      </select>
    </label>
  );
}

function OfIdentity() {
  const own = useSignal<Identity | null>(null);
  const look = async (): Promise<void> => {
    own.value = await kept().catch(() => null);
  };
  useEffect(() => void look(), []);
  return (
    <section aria-label={t("Identity")}>
      <h2>{t("Identity of this browser")}</h2>
      {own.value ? (
        <>
          <p>
            <code>{own.value.principal}</code> <CopyButton text={own.value.principal} />
          </p>
          <p class="hint">
            {t("Its public key:")}{" "}<code>{toHex(own.value.publicKey)}</code>{t(". The private one cannot be read, not even by this page; it is lost with the browser’s data.")}
          </p>
          <Confirmed question={t("Forget this identity? Nobody can be it again.")} isQuiet={false} act={() => forgetIdentity().then(look)}>
            {t("Forget the identity")}
          </Confirmed>
        </>
      ) : (
        <p class="hint">{t("It has none yet: “Sign in as this browser” makes one.")}</p>
      )}
    </section>
  );
}

interface Limits {
  max_tokens_update: number;
  max_tokens_query: number;
}

interface Engine {
  limits: Limits & { instruction_limit: number | null; query_instruction_limit: number | null };
  uptime_seconds: number;
}

const limitTold = (most: number | null): string => (most === null ? t("not limited") : number(most));

function OfCanister() {
  const engine = useSignal<Engine | null>(null);
  const { attempt, told } = useAttempts();
  const done = useSignal("");
  const look = async (): Promise<void> => {
    engine.value = (await ask<Engine>(canisterPath("engine"), undefined, { verb: "GET" })).value;
  };
  const run = (what: string, act: () => Promise<unknown>): Promise<boolean> =>
    attempt(async () => {
      done.value = "";
      await act();
      done.value = what;
    });
  useReading(() => run("", look));
  const limits = engine.value?.limits;
  const setTokens = (change: Partial<Limits>): void => {
    const { max_tokens_update, max_tokens_query } = { ...limits!, ...change };
    void run("The limits of tokens are set.", async () => {
      await call("set_max_tokens", { max_tokens_update, max_tokens_query });
      await look();
    });
  };
  return (
    <section aria-label={t("This canister")}>
      <h2>{t("The canister {0}", canister.value)}</h2>
      {told}
      {done.value ? <p role="status">{t(done.value)}</p> : null}
      {limits && engine.value ? (
        <>
          <p class="hint">
            {t(
              "Up for {0}. Instructions of an update at most: {1}; of a query: {2}. The server’s settings say so.",
              milliseconds(1000 * engine.value.uptime_seconds),
              limitTold(limits.instruction_limit),
              limitTold(limits.query_instruction_limit),
            )}
          </p>
          <div class="row form">
            <NumberField
              label={t("Tokens of an update at most (0: as many as fit)")}
              value={Number(limits.max_tokens_update)}
              set={(to) => setTokens({ max_tokens_update: to })}
            />
            <NumberField
              label={t("Tokens of a query at most (0: as many as fit)")}
              value={Number(limits.max_tokens_query)}
              set={(to) => setTokens({ max_tokens_query: to })}
            />
          </div>
          <div class="actions">
            <button type="button" onClick={() => void run("The model’s own log is off.", () => call("log_pause"))}>
              {t("Turn the model’s log off")}
            </button>
            <button type="button" onClick={() => void run("The model’s own log is on.", () => call("log_resume"))}>
              {t("Turn the model’s log on")}
            </button>
            <button type="button" onClick={() => void run("Old prompt caches are removed.", () => call("cache_cleanup_now"))}>
              {t("Remove old prompt caches now")}
            </button>
          </div>
        </>
      ) : null}
    </section>
  );
}
