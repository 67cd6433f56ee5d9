// The chat: its list, the conversation with every call that it took, and the composer that tells what comes next.
import { signal, useSignal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { messageOf } from "./api";
import { useAttempts } from "./attempts";
import { active, conversations, exported, forget, fresh, imported, open } from "./chats";
import { Composer } from "./composer";
import { SILENT, type Conversation } from "./conversation";
import { dayOf, number, percent } from "./format";
import { MessageView } from "./message";
import { current, denial, modelName, props, refresh } from "./session";
import { Confirmed, Denied, Failure, saveAs } from "./widgets";
import { t } from "./i18n";

const WINDOW = 60; // messages in the document, so that a long chat costs what a short one does
const QUESTIONS = ["Who are you?", "What is a canister?", "Why is the sky blue?"]; // the shipped model speaks English
const isListOpen = signal(false);

export function ChatPage() {
  const chat = active.value;
  return (
    <div class={`chat ${isListOpen.value ? "listed" : ""}`}>
      <h1 class="sr">{t("Chat")}</h1>
      <ChatList />
      <section class="talk" aria-label={t("Conversation")}>
        <div class="bar narrow">
          <button type="button" aria-expanded={isListOpen.value} onClick={() => (isListOpen.value = !isListOpen.value)}>
            {t("Chats")}
          </button>
        </div>
        <Talk chat={chat} />
        <Composer key={chat.id} chat={chat} />
      </section>
    </div>
  );
}

function Talk({ chat }: { chat: Conversation }) {
  const one = current.value;
  if (denial.value)
    return (
      <div class="empty">
        <Denied text={denial.value} />
      </div>
    );
  if (one && !one.ready)
    return (
      <div class="empty">
        <h2>{t("No model is loaded")}</h2>
        <p>{t("Load the model that comes with the package in one click, or add a GGUF file of your own.")}</p>
        <FirstModel />
      </div>
    );
  if (chat.messages.value.length === 0)
    return (
      <div class="empty">
        <h2>{t("Ask {0}", modelName.value || t("the model"))}</h2>
        <p>
          {t("An answer is a chain of bounded calls. Each has a budget of instructions, as on the Internet Computer, and is kept when it ends; you see every one of them.")}
        </p>
        <div class="examples">
          {QUESTIONS.map((text) => (
            <button type="button" key={text} onClick={() => void chat.ask(text)}>
              {text}
            </button>
          ))}
        </div>
      </div>
    );
  return <Messages key={chat.id} chat={chat} />;
}

function FirstModel() {
  const isBusy = useSignal(false);
  const { attempt, told } = useAttempts();
  const load = async (): Promise<void> => {
    isBusy.value = true;
    await attempt(async () => (await import("./shipped")).loadShipped());
    await refresh();
    isBusy.value = false;
  };
  return (
    <>
      <div class="actions">
        <button type="button" class="primary" disabled={isBusy.value} onClick={() => void load()}>
          {isBusy.value ? t("Loading…") : t("Load the shipped model")}
        </button>
        <a class="button" href="#/models">
          {t("Add a model")}
        </a>
      </div>
      {told}
    </>
  );
}

function Messages({ chat }: { chat: Conversation }) {
  const all = chat.messages.value;
  const scroller = useRef<HTMLDivElement>(null);
  const isPinned = useRef(true);
  const [shown, setShown] = useState(WINDOW);
  useEffect(() => {
    if (isPinned.current && scroller.current) scroller.current.scrollTop = scroller.current.scrollHeight;
  });
  // What stands below it grows and shrinks, as the options do; who was at the end stays there.
  useEffect(() => {
    const watched = new ResizeObserver(([seen]) => {
      if (isPinned.current) seen!.target.scrollTop = seen!.target.scrollHeight;
    });
    watched.observe(scroller.current!);
    return () => watched.disconnect();
  }, []);
  const from = Math.max(0, all.length - shown);
  const nCtx = props.value?.default_generation_settings.n_ctx ?? 0;
  return (
    <>
      <div
        class="messages"
        ref={scroller}
        tabIndex={0}
        role="log"
        aria-label={t("Messages")}
        aria-busy={chat.busy.value !== ""}
        onScroll={(event) => {
          const box = event.currentTarget;
          isPinned.current = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
        }}
      >
        {from ? (
          <button
            type="button"
            class="more"
            onClick={() => {
              isPinned.current = false;
              setShown(shown + WINDOW);
            }}
          >
            {t("{0} earlier messages", number(from))}
          </button>
        ) : null}
        {all.slice(from).map((one, at) => (
          <MessageView
            key={from + at}
            message={one}
            at={from + at}
            chat={chat}
            isLast={from + at === all.length - 1}
            isBusy={chat.busy.value !== ""}
            live={from + at === all.length - 1 ? chat.live.value : SILENT}
            wait={from + at === all.length - 1 ? chat.wait.value : null}
          />
        ))}
      </div>
      {nCtx ? (
        <p class="context hint">
          {t("context")}{" "}
          <span
            class="track"
            role="meter"
            aria-label={t("Part of the context that is used")}
            aria-valuemin={0}
            aria-valuemax={nCtx}
            aria-valuenow={Math.min(nCtx, chat.context.value)}
          >
            <span class="fill" style={{ inlineSize: `${Math.min(100, (100 * chat.context.value) / nCtx)}%` }} />
          </span>{" "}
          {percent(chat.context.value / nCtx)} · {t("{0} of {1} tokens", number(chat.context.value), number(nCtx))}
        </p>
      ) : null}
    </>
  );
}

/** Chats by the day on which they were last gone on with, in their order. */
function daysOf(all: Conversation[]): [string, Conversation[]][] {
  const days = new Map<string, Conversation[]>();
  for (const one of all) days.set(dayOf(one.changed), [...(days.get(dayOf(one.changed)) ?? []), one]);
  return [...days];
}

function ChatList() {
  const [sought, setSought] = useState("");
  const [problem, setProblem] = useState("");
  const picker = useRef<HTMLInputElement>(null);
  const low = sought.toLowerCase();
  const fits = (one: Conversation): boolean =>
    !low ||
    one.title.value.toLowerCase().includes(low) ||
    one.messages.value.some((said) => said.text.toLowerCase().includes(low));
  const take = async (files: FileList | null): Promise<void> => {
    try {
      if (files?.[0]) imported(await files[0].text());
      setProblem("");
    } catch (error) {
      setProblem(messageOf(error));
    }
  };
  return (
    <aside class="list" aria-label={t("Chats")}>
      <button
        type="button"
        class="primary wide"
        onClick={() => {
          active.value = fresh();
          isListOpen.value = false;
        }}
      >
        {t("New chat")}
      </button>
      <input
        id="search-chats"
        type="search"
        aria-label={t("Search chats")}
        placeholder={t("Search")}
        value={sought}
        onInput={(event) => setSought(event.currentTarget.value)}
      />
      {daysOf(conversations.value.filter(fits)).map(([day, chats]) => (
        <details key={low ? `${day} ${low}` : day} class="day" open>
          <summary>{day}</summary>
          <ul aria-label={day}>
            {chats.map((one) => (
              <li key={one.id} class="line">
                <button
                  type="button"
                  class={`item ${one === active.value ? "current" : ""}`}
                  aria-current={one === active.value}
                  onClick={() => {
                    open(one);
                    isListOpen.value = false;
                  }}
                >
                  {one.parent ? "⑂ " : ""}
                  {one.title.value}
                </button>
                <Confirmed
                  question={t("Forget the chat “{0}” and its prompt cache?", one.title.value)}
                  label={t("Forget the chat {0}", one.title.value)}
                  disabled={one.busy.value !== ""}
                  act={() => forget(one)}
                >
                  ×
                </Confirmed>
              </li>
            ))}
          </ul>
        </details>
      ))}
      <div class="actions">
        <button type="button" class="quiet" disabled={conversations.value.length === 0} onClick={save}>
          {t("Export")}
        </button>
        <button type="button" class="quiet" onClick={() => picker.current?.click()}>
          {t("Import")}
        </button>
        <input
          type="file"
          accept="application/json,.json"
          ref={picker}
          hidden
          aria-label={t("File of chats")}
          onChange={(event) => {
            const input = event.currentTarget;
            void take(input.files).then(() => (input.value = "")); // so that the same file can be chosen again
          }}
        />
      </div>
      {problem ? (
        <Failure>{problem}</Failure>
      ) : null}
    </aside>
  );
}

const save = (): void => saveAs("chats.json", exported(), "application/json");
