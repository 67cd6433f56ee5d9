// The box to write in. While one types, it tells what the next call and the whole answer will cost.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { call, messageOf } from "./api";
import type { ChatSettings, Conversation } from "./conversation";
import { number, percent, short, usd } from "./format";
import type { EstimateRecord } from "./interface";
import { current, denial } from "./session";
import { t } from "./i18n";

const WAIT_MS = 250; // after the last key
const USUAL_ANSWER = 64; // tokens

export function Composer({ chat }: { chat: Conversation }) {
  const box = useRef<HTMLTextAreaElement>(null);
  const timer = useRef(0);
  const asked = useRef<AbortController | null>(null);
  const estimate = useSignal<EstimateRecord | string | null>(null);
  const busy = chat.busy.value;
  const isReady = current.value?.ready === true && !denial.value;

  useEffect(() => {
    if (box.current && chat.draft) box.current.value = chat.draft;
    if (matchMedia("(hover: hover)").matches) box.current?.focus();
    return () => {
      clearTimeout(timer.current);
      asked.current?.abort();
    };
  }, []);

  const forgetEstimate = (): void => {
    clearTimeout(timer.current);
    asked.current?.abort();
    estimate.value = null;
  };

  const look = (): void => {
    clearTimeout(timer.current);
    asked.current?.abort();
    chat.draft = box.current?.value ?? "";
    const text = chat.draft.trim();
    if (!text || busy || !isReady) {
      estimate.value = null;
      return;
    }
    timer.current = setTimeout(() => void askWhatItCosts(text), WAIT_MS);
  };

  const askWhatItCosts = async (text: string): Promise<void> => {
    const own = (asked.current = new AbortController());
    try {
      const prompt = await chat.promptWith(text, own.signal);
      const answer = Math.min(USUAL_ANSWER, chat.settings.value.answerTokens);
      const { tokensPerCall, answerTokens } = chat.settings.value;
      const arg = { ...chat.args(prompt, tokensPerCall ? tokensPerCall + 1 : answerTokens), answer_tokens: answer };
      const found = (await call("estimate_run", arg, { abort: own.signal })).value;
      if (!own.signal.aborted) estimate.value = found;
    } catch (error) {
      if (!own.signal.aborted) estimate.value = messageOf(error);
    }
  };

  useEffect(look, [isReady, busy]); // what was written before the model was there, or while it answered

  const send = (): void => {
    const text = box.current?.value.trim() ?? "";
    if (!text || busy || !isReady || !box.current) return;
    box.current.value = chat.draft = "";
    box.current.focus();
    forgetEstimate();
    void chat.ask(text);
  };

  const onKey = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && !box.current?.value) {
      const edits = document.querySelectorAll<HTMLButtonElement>(".message.user .edit");
      edits[edits.length - 1]?.click();
    }
  };

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        ref={box}
        rows={2}
        aria-label={t("Message")}
        placeholder={t("Ask something. Enter sends, Shift+Enter begins a line.")}
        onInput={look}
        onKeyDown={onKey}
      />
      <div class="row">
        <span class="hint estimate" aria-live="polite">
          <Told estimate={estimate.value} />
        </span>
        {busy ? (
          <button type="button" class="stop" onClick={() => chat.stop()}>
            {busy === "stopping" ? t("Stop now") : t("Stop after this call")}
          </button>
        ) : (
          <button type="submit" class="primary" disabled={!isReady}>
            {t("Send")}
          </button>
        )}
      </div>
      <Settings chat={chat} />
    </form>
  );
}

function Told({ estimate }: { estimate: EstimateRecord | string | null }) {
  if (estimate === null) return <>{t("What it will cost is shown while you type.")}</>;
  if (typeof estimate === "string") return <>{estimate}</>;
  const { instructions, limit, calls } = estimate;
  return (
    <>
      {t("next call")}{" "}<b>{limit ? percent(Number(instructions) / Number(limit)) : short(instructions)}</b>
{" "}
      {limit ? t("of the budget") : t("instructions")} ·{" "}
      {t("{0} prompt tokens, {1} cached", number(estimate.n_prompt_tokens), number(estimate.n_prompt_tokens_cached))} ·{" "}
      {t("an answer of {0} tokens:", USUAL_ANSWER)} <b>{Number(calls) === 1 ? t("1 call") : t("{0} calls", number(calls))}</b>,{" "}
      {t("{0} cycles", short(estimate.total_cycles))} ({usd(estimate.usd)})
    </>
  );
}

function Settings({ chat }: { chat: Conversation }) {
  const set = (change: Partial<ChatSettings>): void => {
    chat.settings.value = { ...chat.settings.value, ...change };
    if (chat.messages.value.length) chat.onChange(false);
  };
  const { temperature, answerTokens, tokensPerCall } = chat.settings.value;
  return (
    <details class="options">
      <summary>{t("Options of this chat")}</summary>
      <div class="row">
        <label>
          {t("Temperature")}
          <input
            type="number"
            min="0"
            max="5"
            step="0.1"
            value={temperature}
            onChange={(event) => set({ temperature: Math.max(0, event.currentTarget.valueAsNumber || 0) })}
          />
        </label>
        <label>
          {t("Answer tokens at most")}
          <input
            type="number"
            min="2"
            step="1"
            value={answerTokens}
            onChange={(event) => set({ answerTokens: Math.max(2, event.currentTarget.valueAsNumber || 2) })}
          />
        </label>
        <label>
          {t("Answer tokens a call (0: as many as fit)")}
          <input
            type="number"
            min="0"
            step="1"
            value={tokensPerCall}
            onChange={(event) => set({ tokensPerCall: Math.max(0, event.currentTarget.valueAsNumber || 0) })}
          />
        </label>
      </div>
      <label>
        {t("System message")}
        <textarea
          rows={2}
          value={chat.system.value}
          onChange={(event) => {
            chat.system.value = event.currentTarget.value.trim();
            set({});
          }}
        />
      </label>
    </details>
  );
}
