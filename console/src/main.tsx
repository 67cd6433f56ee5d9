// The shell: sign-in, the bar above, the pages. It knows no page by name.
import { signal } from "@preact/signals";
import { render } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { canister, messageOf, sleep } from "./api";
import { active, fresh } from "./chats";
import { number, short, shortPrincipal } from "./format";
import { fetchParser } from "./markdown";
import { pages } from "./pages";
import { theme } from "./preferences";
import * as session from "./session";
import { Boundary, Failure } from "./widgets";
import { begin, t } from "./i18n";

const THEMES = { auto: "light", light: "dark", dark: "auto" } as const;
const SIGNS = { auto: "◐", light: "☀", dark: "☾" } as const;
const LOOK_MS = 5000;
const LONGEST_START_MS = 1500;
const PARSER_MS = 1000; // what is needed first is there by then

const isHelpOpen = signal(false);

const routeOf = (): string => location.hash.split("/")[1] || "chat";
const route = signal(routeOf());
addEventListener("hashchange", () => {
  if (location.hash === "#main") return;
  if (session.isLink()) void session.enterByLink().then(session.refresh); // opened in a tab that has the page already
  route.value = routeOf();
  document.getElementById("main")?.focus();
});

function SignIn() {
  const box = useRef<HTMLInputElement>(null);
  const keep = useRef<HTMLInputElement>(null);
  return (
    <main id="main" class="signin">
      <form
        class="card"
        onSubmit={(event) => {
          event.preventDefault();
          void session.enterByKey(box.current?.value.trim() ?? "", keep.current?.checked ?? false);
        }}
      >
        <h1>{t("llama-canister")}</h1>
        <p>
          {t("On the server’s machine")}{" "}<code>canister console</code>{" "}{t("opens this page signed in. Or give an API key: that of the controller is printed by")}{" "}<code>canister key</code>{t(", others are made with")}{" "}
          <code>canister api-key create NAME</code>.
        </p>
        {session.refusal.value ? (
          <Failure>{session.refusal.value}</Failure>
        ) : null}
        {session.isOnline.value ? null : (
          <Failure>{t("The server does not answer.")}</Failure>
        )}
        <label for="key">
          {t("API key")}
          <input id="key" ref={box} type="password" autocomplete="off" spellcheck={false} required />
        </label>
        <label class="inline">
          <input type="checkbox" ref={keep} />{" "}{t("Keep it in this browser")}
        </label>
        <p class="hint">{t("A key that is kept can be read by whatever serves this address and port next.")}</p>
        <div class="actions">
          <button type="submit" class="primary">
            {t("Sign in")}
          </button>
          {isSecureContext ? (
            <button
              type="button"
              onClick={() => void session.enterByIdentity().catch((error: unknown) => (session.refusal.value = messageOf(error)))}
            >
              {t("Sign in as this browser")}
            </button>
          ) : null}
        </div>
        <p class="hint">
          {isSecureContext
            ? t("As itself, a browser has a key of its own that no script can read. Who controls the canister gives its principal a role, or lets everybody chat.")
            : t("This page came over plain HTTP by a name. So it has no keys of its own and cannot copy, and others on the way can read what is sent: open it as localhost, or by HTTPS.")}
        </p>
      </form>
    </main>
  );
}

function Header() {
  const one = session.current.value;
  return (
    <header>
      <span class="brand">{t("llama-canister")}</span>
      <select
        aria-label={t("Canister")}
        value={canister.value}
        onChange={(event) => {
          canister.value = event.currentTarget.value;
          void session.refresh();
        }}
      >
        {session.canisters.value.map((each) => (
          <option key={each.name} value={each.name}>
            {each.name}
          </option>
        ))}
      </select>
      <span class={`chip ${one?.ready ? "good" : "bad"}`} title={session.modelKind.value}>
        {session.modelName.value || t("no model")}
      </span>
      {session.isOnline.value ? null : (
        <span class="chip bad" role="status">
          {t("Not connected, trying again")}
        </span>
      )}
      <span class="grow" />
      {session.cycles.value === null ? null : (
        <span class="hint cycles" title={t("Cycles that the canister has: {0}", number(session.cycles.value))}>
          {t("{0} cycles", short(session.cycles.value))}
        </span>
      )}
      <span class="hint principal" title={session.principal.value}>
        {shortPrincipal(session.principal.value)}
      </span>
      <button
        type="button"
        class="quiet"
        aria-label={t("Colours: {0}", theme.value)}
        onClick={() => (theme.value = THEMES[theme.value])}
      >
        {SIGNS[theme.value]}
      </button>
      <button type="button" class="quiet" onClick={() => void session.leave()}>
        {t("Sign out")}
      </button>
    </header>
  );
}

function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const rows = [
    ["Enter", "send"],
    ["Shift+Enter", "begin a line"],
    ["Esc", "stop after this call; again: stop now"],
    ["↑", "edit the last message, from an empty box"],
    ["Ctrl+K", "search chats"],
    ["Ctrl+Shift+O", "new chat"],
    ...pages().map((page) => [`g ${page.key}`, page.title]),
    ["?", "this help"],
  ];
  return (
    <dialog ref={dialog} class="help" aria-label={t("Keys")} onClose={() => (isHelpOpen.value = false)}>
      <h2>{t("Keys")}</h2>
      <dl>
        {rows.map(([keys, what]) => (
          <div key={keys}>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{t(what!)}</dd>
          </div>
        ))}
      </dl>
      <button type="button" class="primary" onClick={() => dialog.current?.close()}>
        {t("Close")}
      </button>
    </dialog>
  );
}

let wasG = false;

function onKey(event: KeyboardEvent): void {
  const isTyping = event.target instanceof Element && event.target.matches("input, textarea, select");
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
    event.preventDefault();
    location.hash = "#/chat";
    requestAnimationFrame(() => document.getElementById("search-chats")?.focus());
  } else if ((event.ctrlKey || event.metaKey) && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    active.value = fresh();
    location.hash = "#/chat";
  } else if (event.key === "Escape" && isHelpOpen.value) return; // the dialog closes by itself
  else if (event.key === "Escape" && active.value.busy.value) active.value.stop();
  else if (isTyping || event.ctrlKey || event.metaKey || event.altKey) wasG = false;
  else if (event.key === "?") isHelpOpen.value = !isHelpOpen.value;
  else if (wasG) {
    wasG = false;
    const page = pages().find((one) => one.key === event.key);
    if (page) location.hash = `#/${page.name}`;
  } else wasG = event.key === "g";
}

function App() {
  const isIn = session.key.value !== "";
  useEffect(() => {
    if (!isIn) return;
    void session.refresh();
    const timer = setInterval(() => {
      if (!document.hidden) void session.refresh();
    }, LOOK_MS);
    return () => clearInterval(timer);
  }, [isIn]);
  useEffect(() => {
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  const page = pages().find((one) => one.name === route.value) ?? pages()[0]!;
  useEffect(() => document.querySelector("nav.main [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" }), [page.name, isIn]);
  document.title = isIn ? `${t(page.title)} · llama-canister` : "llama-canister";
  if (!isIn) return <SignIn />;
  return (
    <div class="shell">
      <Header />
      <nav class="main" aria-label={t("Pages")}>
        {pages().map(({ name, title }) => (
          <a key={name} href={`#/${name}`} aria-current={name === page.name ? "page" : undefined}>
            {t(title)}
          </a>
        ))}
        <a href="docs">{t("API")}</a>
      </nav>
      <main id="main" tabIndex={-1}>
        <Boundary key={`${page.name} ${canister.value}`}>
          <page.Body />
        </Boundary>
      </main>
      {isHelpOpen.value ? <Help /> : null}
    </div>
  );
}

/** The page is drawn once it is known what is there, so that nothing jumps; a slow server does not hold it up. */
async function start(): Promise<void> {
  await Promise.all([begin(), session.enterByLink()]);
  if (session.key.value) await Promise.race([session.refresh(), sleep(LONGEST_START_MS)]);
  const app = document.getElementById("app")!;
  app.replaceChildren();
  render(<App />, app);
  if (session.key.value) setTimeout(fetchParser, PARSER_MS);
}

void start();
