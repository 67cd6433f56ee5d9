// Files on their way in: what a chosen one is and would cost, before a byte of it is sent, and how far the others are.
import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { ask, canisterPath, messageOf } from "./api";
import { toBase64 } from "./bytes";
import { ANSWER, answerTold, loadingTold, needsTold, uploadTold, Verdict, type Fit } from "./fit";
import { bytes, percent, short, usd } from "./format";
import { headOf, type Head } from "./gguf";
import { isUnderWay, send, uploads, type Upload } from "./uploads";
import { Countdown, Failure } from "./widgets";
import { t } from "./i18n";

interface Chosen {
  file: File;
  head: Head;
  /** A text: why it is not known; null: it is being asked. */
  fit: Fit | string | null;
}

/** Files that wait for a word whether they are to be sent. */
export const chosen = signal<Chosen[]>([]);

/** Look at files that somebody has given. Raises an Error that names one that is no model. */
export async function choose(files: Iterable<File>, args: string[]): Promise<void> {
  const refused: string[] = [];
  for (const file of files) {
    try {
      const one: Chosen = { file, head: await headOf(file), fit: null };
      chosen.value = [...chosen.value.filter((other) => other.file.name !== file.name), one];
      void askFit(one, args);
    } catch (error) {
      refused.push(`${file.name}: ${messageOf(error)}`);
    }
  }
  if (refused.length) throw new Error(refused.join("\n"));
}

async function askFit(one: Chosen, args: string[]): Promise<void> {
  const { head, file } = one;
  const body = { header: toBase64(head.slim), file_bytes: file.size, args, ...ANSWER };
  const fit =
    head.nParts > 1
      ? t("It is part {0} of {1}: what the whole model needs is told when all parts are here.", head.part, head.nParts)
      : await ask<Fit>(canisterPath("models"), body).then(({ value }) => value, messageOf);
  chosen.value = chosen.value.map((other) => (other === one ? { ...one, fit } : other));
}

const drop = (one: Chosen): void => {
  chosen.value = chosen.value.filter((other) => other !== one);
};

export function Incoming({ onSent }: { onSent: () => void }) {
  return (
    <>
      {chosen.value.map((one) => (
        <Choice key={one.file.name} one={one} onSent={onSent} />
      ))}
      {uploads.value.map((one) => (
        <UploadLine key={one.id} upload={one} />
      ))}
    </>
  );
}

function Choice({ one, onSent }: { one: Chosen; onSent: () => void }) {
  const { file, head, fit } = one;
  const upload = async (): Promise<void> => {
    drop(one);
    await send(file, `models/${file.name}`);
    onSent();
  };
  return (
    <section class="chosen" aria-label={t("Chosen: {0}", file.name)}>
      <p>
        <code>{file.name}</code> <b>{head.name}</b> <span class="hint">{[head.architecture, bytes(file.size)].filter(Boolean).join(" · ")}</span>
      </p>
      <div role="status">
        {fit === null ? <p class="hint">{t("What it needs is being looked up…")}</p> : null}
        {typeof fit === "string" ? <p class="hint">{fit}</p> : null}
        {fit && typeof fit !== "string" ? (
          <dl class="named">
            <div>
              <dt>{t("fits the Internet Computer")}</dt>
              <dd>
                <Verdict fit={fit} /> <span class="hint">{needsTold(fit)}</span>
              </dd>
            </div>
            <div>
              <dt>{t("what it takes there")}</dt>
              <dd class="hint">
                {uploadTold(fit)}; {loadingTold(fit)}
              </dd>
            </div>
            <div>
              <dt>{t("an answer costs")}</dt>
              <dd>
                {fit.calls ? usd(fit.usd) : "–"} <span class="hint">{fit.calls ? answerTold(fit) : ""}</span>
              </dd>
            </div>
          </dl>
        ) : null}
      </div>
      <div class="actions">
        <button type="button" class="primary" aria-label={t("Upload {0}", file.name)} onClick={() => void upload()}>
          {t("Upload")}
        </button>
        <button type="button" aria-label={t("Not this one: {0}", file.name)} onClick={() => drop(one)}>
          {t("Not this one")}
        </button>
      </div>
    </section>
  );
}

interface DropGiven {
  take: (files: Iterable<File>) => void;
  pick: () => void;
}

/** Where files are dropped. */
export function DropZone({ take, pick }: DropGiven) {
  const [isOver, setOver] = useState(false);
  return (
    <div
      class={`drop ${isOver ? "over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        take(event.dataTransfer?.files ?? []);
      }}
    >
      <p>{t("Drop a GGUF file here, or")}</p>
      <button type="button" class="primary" onClick={pick}>
        {t("Choose a file")}
      </button>
      <p class="hint">
        {t("Its header is looked at first: you see what it needs and costs before a byte is sent. It goes in pieces of 8 MiB, each checked by its digest; an upload that was cut off goes on where it was.")}
      </p>
    </div>
  );
}

function UploadLine({ upload }: { upload: Upload }) {
  const { target, size, sent, state, cycles, problem, wait } = upload;
  return (
    <div class="upload">
      <div class="row">
        <code>{target}</code>
        <span class="hint" role="status">
          {t("{0} of {1}", bytes(sent.value), bytes(size))} · {percent(sent.value / size)} · {t(state.value)}
          {cycles.value ? t(" · {0} cycles", short(cycles.value)) : ""}
        </span>
        {isUnderWay(upload) ? (
          <button type="button" class="quiet" onClick={upload.stop}>
            {t("Stop")}
          </button>
        ) : null}
      </div>
      <progress max={size} value={sent.value} aria-label={t("Upload of {0}", target)} />
      {wait.value ? <Countdown wait={wait.value} /> : null}
      {problem.value ? (
        <Failure>{problem.value}</Failure>
      ) : null}
    </div>
  );
}
