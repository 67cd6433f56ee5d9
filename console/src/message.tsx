// One message: what was said, what can be done with it, and the calls that it took.
import { useRef, useState } from "preact/hooks";
import { messageOf, type Wait } from "./api";
import { open } from "./chats";
import type { Conversation, Live, Message, Step } from "./conversation";
import { milliseconds, number, short } from "./format";
import { Markdown } from "./markdown";
import { partsOf } from "./parts";
import { Budget, CopyButton, Countdown, Failure, memo } from "./widgets";
import { t } from "./i18n";

interface Properties {
  message: Message;
  at: number;
  chat: Conversation;
  isLast: boolean;
  isBusy: boolean;
  /** What the running call has said, for the message that it belongs to. */
  live: Live;
  wait: Wait | null;
}

export const MessageView = memo((given: Properties) =>
  given.message.role === "user" ? <Question {...given} /> : <Answer {...given} />,
);

function Question({ message, at, chat, isBusy }: Properties) {
  const [isEdited, setEdited] = useState(false);
  const [problem, setProblem] = useState("");
  const box = useRef<HTMLTextAreaElement>(null);
  const ask = async (): Promise<void> => {
    const text = box.current?.value.trim() ?? "";
    if (!text) return;
    try {
      const other = await chat.branch(at);
      setEdited(false);
      open(other);
      await other.ask(text);
    } catch (error) {
      setProblem(messageOf(error));
    }
  };
  if (!isEdited)
    return (
      <article class="message user" aria-label={t("You")}>
        <div class="bubble">{message.text}</div>
        <div class="actions">
          <button type="button" class="quiet edit" disabled={isBusy} onClick={() => setEdited(true)}>
            {t("Edit")}
          </button>
        </div>
      </article>
    );
  return (
    <article class="message user" aria-label={t("You")}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void ask();
        }}
      >
        <textarea ref={box} rows={3} aria-label={t("Edit your message")} defaultValue={message.text} />
        {problem ? <Failure>{problem}</Failure> : null}
        <div class="actions">
          <button type="submit" class="primary">
            {t("Ask in a branch")}
          </button>
          <button type="button" onClick={() => setEdited(false)}>
            {t("Cancel")}
          </button>
        </div>
      </form>
    </article>
  );
}

function Answer({ message, at, chat, isLast, isBusy, live, wait }: Properties) {
  const { state, steps } = message;
  const goesOn = isLast && !isBusy && ["stopped", "limit", "failed"].includes(state);
  const cycles = steps.reduce((sum, step) => sum + (step.cost?.cycles ?? 0), 0);
  return (
    <article class="message assistant" aria-label={t("Model")} aria-busy={state === "running"}>
      <Said text={message.text + live.text} isRunning={state === "running"} />
      {wait ? <Countdown wait={wait} /> : null}
      <Ending message={message} chat={chat} />
      {isBusy && isLast ? null : (
        <div class="actions">
          {goesOn ? (
            <button type="button" class="primary" onClick={() => void chat.resume()}>
              {t("Go on")}
            </button>
          ) : null}
          {message.text ? (
            <>
              <button type="button" class="quiet" disabled={isBusy} onClick={() => void chat.branch(at + 1).then(open)}>
                {t("Branch from here")}
              </button>
              <CopyButton text={message.text.trim()} />
            </>
          ) : null}
        </div>
      )}
      {steps.length ? (
        <details class="steps" open={isLast}>
          <summary>
            {steps.length === 1 ? t("1 call") : t("{0} calls", steps.length)} · {t("{0} cycles", short(cycles))}
          </summary>
          <Calls steps={steps} live={live} />
        </details>
      ) : null}
    </article>
  );
}

/** An answer with its thoughts and its calls of tools told apart. */
function Said({ text, isRunning }: { text: string; isRunning: boolean }) {
  const parts = partsOf(text);
  if (parts.length === 0) return isRunning ? <p class="hint">{t("The prompt goes in, part by part…")}</p> : null;
  return (
    <>
      {parts.map((part, at) => {
        if (part.kind === "thoughts")
          return (
            <details key={at} class="steps">
              <summary>{t("Thoughts")}</summary>
              <div class="thoughts">
                <Markdown text={part.text} />
              </div>
            </details>
          );
        if (part.kind === "tool")
          return (
            <figure key={at} class="code">
              <figcaption>{t("tool call")}</figcaption>
              <pre tabIndex={0}>{part.text}</pre>
            </figure>
          );
        return <Markdown key={at} text={part.text} />;
      })}
    </>
  );
}

function Ending({ message, chat }: { message: Message; chat: Conversation }) {
  switch (message.state) {
    case "stopped":
      return <p class="hint">{t("Stopped. What was answered until then is kept.")}</p>;
    case "limit":
      return <p class="hint">{t("The answer’s limit of {0} tokens was reached.", number(chat.settings.value.answerTokens))}</p>;
    case "full":
      return <p class="hint">{t("The context is full: nothing more fits in.")}</p>;
    case "failed":
      return (
        <Failure requestId={message.requestId}>
          {message.error}
          {message.kind === "network" ? ` ${t("What was answered until then is kept; go on when it is back.")}` : ""}
        </Failure>
      );
    default:
      return null;
  }
}

function Calls({ steps, live }: { steps: Step[]; live: Live }) {
  const limit = steps.findLast((step) => step.cost)?.cost?.limit;
  const sum = (of: (step: Step) => number): number => steps.reduce((total, step) => total + of(step), 0);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={t("Calls of this answer")}>
      <table class="calls">
        <caption class="sr">{t("Calls of this answer")}</caption>
        <thead>
          <tr>
            <th scope="col">{t("call")}</th>
            <th scope="col">{limit ? t("budget of {0}", short(limit)) : t("budget")}</th>
            <th scope="col" class="n">
              {t("in")}
            </th>
            <th scope="col" class="n">
              {t("out")}
            </th>
            <th scope="col" class="n">
              {t("left")}
            </th>
            <th scope="col" class="n">
              {t("cycles")}
            </th>
            <th scope="col" class="n">
              {t("time")}
            </th>
          </tr>
        </thead>
        <tbody>
          {steps.map((step) => (
            <tr key={step.n} class={step.state}>
              <td>
                <span class={`tag ${step.phase}`}>{t(step.phase)}</span> {step.n}
              </td>
              <td>
                <Budget cost={step.cost} isRunning={step.state === "running"} />
              </td>
              {step.state === "done" ? (
                <>
                  <td class="n">{number(step.tokensIn)}</td>
                  <td class="n">{number(step.tokensOut)}</td>
                  <td class="n">{number(step.tokensLeft)}</td>
                </>
              ) : (
                <td colSpan={3}>
                  {step.state === "running" ? <span class="pulse" /> : null}{" "}
                  {step.state === "running" && live.pieces ? t("answering, {0} tokens so far", number(live.pieces)) : t(step.state)}
                  {step.error ? `: ${step.error}` : ""}
                </td>
              )}
              <td class="n">{step.cost ? short(step.cost.cycles) : "–"}</td>
              <td class="n">{step.ms ? milliseconds(step.ms) : ""}</td>
            </tr>
          ))}
        </tbody>
        <tfoot>
          <tr>
            <th scope="row">{t("total")}</th>
            <td>{short(sum((step) => step.cost?.instructions ?? 0))}{" "}{t("instructions")}</td>
            <td class="n">{number(sum((step) => step.tokensIn))}</td>
            <td class="n">{number(sum((step) => step.tokensOut))}</td>
            <td />
            <td class="n">{short(sum((step) => step.cost?.cycles ?? 0))}</td>
            <td class="n">{milliseconds(sum((step) => step.ms))}</td>
          </tr>
        </tfoot>
      </table>
    </div>
  );
}
