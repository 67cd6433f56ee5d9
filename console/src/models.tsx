// Models: those in the canister, the one that is loaded, and how others get in.
import { useSignal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { ask, call, canister, canisterPath, messageOf, request } from "./api";
import { bytes, number, percent, short, usd } from "./format";
import { headOf } from "./gguf";
import { current, modelName, refresh } from "./session";
import { isUnderWay, send, uploads, type Upload } from "./uploads";
import { Problem } from "./widgets";
import { t } from "./i18n";

const SHIPPED = "llama-canister-tiny.gguf";

interface Model {
  path: string;
  bytes: number;
  n_parts: number;
  is_loaded: boolean;
  problem: string | null;
  architecture: string | null;
  title: string | null;
  quantization: string | null;
  n_params: number | bigint | null;
  n_ctx_train: number | null;
}

const ANSWER = { prompt_tokens: 100, answer_tokens: 100 };
const WAIT_MS = 400; // after the last key
const MOST_FITS = 20; // models that are looked at without being asked

interface Fit {
  n_ctx: number;
  fits: boolean;
  reasons: string[];
  loads: "yes" | "maybe" | "no";
  heap_bytes: number;
  heap_limit_bytes: number;
  largest_n_ctx: number;
  tokens_per_call: number;
  calls: number;
  usd: number;
  estimated: string[];
}

export function ModelsPage() {
  const models = useSignal<Model[] | null>(null);
  const fits = useSignal<Record<string, Fit | string>>({});
  const problem = useSignal<unknown>(null);
  const [busy, setBusy] = useState("");
  const [isOver, setOver] = useState(false);
  const [context, setContext] = useState("");
  const picker = useRef<HTMLInputElement>(null);

  const list = async (): Promise<void> => {
    try {
      models.value = (await ask<{ models: Model[] }>(canisterPath("models"), undefined, { verb: "GET" })).value.models;
    } catch (error) {
      problem.value = error;
    }
  };
  useEffect(() => void list(), [canister.value]);

  // What loading would mean, before it is done.
  useEffect(() => {
    let isOver = false;
    const look = async (): Promise<void> => {
      const args = context ? ["--ctx-size", context] : [];
      for (const { path, problem: why } of (models.value ?? []).slice(0, MOST_FITS)) {
        if (isOver || why) continue;
        const place = canisterPath(`models/${path.split("/").map(encodeURIComponent).join("/")}`);
        const found = await ask<Fit>(place, { args, ...ANSWER }).then(({ value }) => value, messageOf);
        if (!isOver) fits.value = { ...fits.value, [path]: found };
      }
    };
    const timer = setTimeout(() => void look(), WAIT_MS);
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, [models.value, context]);

  /** Do something that changes what is here; what it is refused for is told. */
  const change = async (what: string, act: () => Promise<unknown>): Promise<void> => {
    setBusy(what);
    problem.value = null;
    try {
      await act();
    } catch (error) {
      problem.value = error;
    }
    await list();
    await refresh();
    setBusy("");
  };

  const load = (path: string): Promise<unknown> =>
    call("load_model", { args: ["--model", path, ...(context ? ["--ctx-size", context] : [])] });

  const take = async (files: FileList | undefined | null): Promise<void> => {
    for (const file of files ?? []) {
      try {
        await headOf(file);
      } catch (error) {
        problem.value = new Error(`${file.name}: ${messageOf(error)}`);
        continue;
      }
      problem.value = null;
      await send(file, `models/${file.name}`);
      await list();
    }
  };

  const loadShipped = async (): Promise<void> => {
    const path = `models/${SHIPPED}`;
    if (!models.value?.some((one) => one.path === path)) {
      const response = await request(`console/shipped/${SHIPPED}`);
      if (!response.ok) throw new Error(t("The model that comes with the package is not in this installation."));
      if (!(await send(await response.blob(), path))) throw new Error(t("The model could not be put in."));
    }
    await load(path);
  };

  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Models")}>
      <h1>{t("Models")}</h1>
      <p>
        {t("Loaded:")}{" "}<b>{modelName.value || t("none")}</b> <span class="hint">{current.value?.model ?? ""}</span>{" "}
        {current.value?.ready ? (
          <button
            type="button"
            disabled={busy !== ""}
            onClick={() => void change("unload", () => ask(canisterPath("engine"), undefined, { verb: "DELETE" }))}
          >
            {t("Unload")}
          </button>
        ) : (
          <button type="button" class="primary" disabled={busy !== ""} onClick={() => void change("shipped", loadShipped)}>
            {busy === "shipped" ? t("Loading…") : t("Load the shipped model")}
          </button>
        )}
      </p>
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
          void take(event.dataTransfer?.files);
        }}
      >
        <p>{t("Drop a GGUF file here, or")}</p>
        <button type="button" class="primary" onClick={() => picker.current?.click()}>
          {t("Choose a file")}
        </button>
        <input
          type="file"
          accept=".gguf"
          multiple
          ref={picker}
          hidden
          aria-label={t("Model to upload")}
          onChange={(event) => {
            const input = event.currentTarget;
            void take(input.files).then(() => (input.value = ""));
          }}
        />
        <p class="hint">
          {t("Its header is looked at first. It is sent in pieces of 8 MiB; an upload that was cut off goes on where it was.")}
        </p>
      </div>
      {uploads.value.map((one) => (
        <UploadLine key={one.id} upload={one} />
      ))}
      {problem.value ? <Problem error={problem.value} /> : null}
      <label class="inline">
        {t("Context in tokens when loading (empty: as the model says)")}
        <input class="short" inputMode="numeric" pattern="[0-9]*" value={context} onInput={(event) => setContext(event.currentTarget.value.trim())} />
      </label>
      <div class="scroll" tabIndex={0} role="region" aria-label={t("Models in the canister")}>
        <table class="models">
          <thead>
            <tr>
              <th scope="col">{t("file")}</th>
              <th scope="col">{t("model")}</th>
              <th scope="col" class="n">
                {t("size")}
              </th>
              <th scope="col" class="n">
                {t("parameters")}
              </th>
              <th scope="col" class="n">
                {t("context")}
              </th>
              <th scope="col">{t("fits the Internet Computer")}</th>
              <th scope="col" class="n">
                {t("an answer costs")}
              </th>
              <th scope="col">
                <span class="sr">{t("what can be done")}</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {(models.value ?? []).map((one) => (
              <tr key={one.path}>
                <td>
                  <code>{one.path}</code>
                  {one.problem ? <p class="hint">{one.problem}</p> : null}
                </td>
                <td>
                  {one.title ?? ""} <span class="hint">{[one.architecture, one.quantization].filter(Boolean).join(" ")}</span>
                </td>
                <td class="n">{bytes(one.bytes)}</td>
                <td class="n">{short(one.n_params)}</td>
                <td class="n">{number(one.n_ctx_train)}</td>
                <Fitting fit={fits.value[one.path]} />
                <td class="n">
                  {one.is_loaded ? (
                    <span class="tag ok">{t("loaded")}</span>
                  ) : (
                    <>
                      <button
                        type="button"
                        disabled={busy !== "" || one.problem !== null}
                        aria-label={t("Load {0}", one.path)}
                        onClick={() => void change(one.path, () => load(one.path))}
                      >
                        {busy === one.path ? t("Loading…") : t("Load")}
                      </button>{" "}
                      <button
                        type="button"
                        class="quiet"
                        disabled={busy !== ""}
                        aria-label={t("Remove {0}", one.path)}
                        onClick={() => {
                          if (confirm(t("Remove {0} ({1})?", one.path, bytes(one.bytes))))
                            void change(one.path, () => call("filesystem_remove", { filename: one.path }));
                        }}
                      >
                        {t("Remove")}
                      </button>
                    </>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="hint">
        {t(
          "An answer: {0} tokens to a prompt of {1}, in a chat of its own. The main network’s limits and prices; weights are not read for it.",
          ANSWER.answer_tokens,
          ANSWER.prompt_tokens,
        )}
      </p>
      {models.value?.length === 0 ? <p class="hint">{t("No model is here yet.")}</p> : null}
    </div>
  );
}

function Fitting({ fit }: { fit: Fit | string | undefined }) {
  if (fit === undefined)
    return (
      <>
        <td>–</td>
        <td class="n">–</td>
      </>
    );
  if (typeof fit === "string")
    return (
      <td colSpan={2} class="hint">
        {fit}
      </td>
    );
  const heap = `${bytes(fit.heap_bytes)} of ${bytes(fit.heap_limit_bytes)} heap`;
  return (
    <>
      <td title={[heap, ...fit.estimated].join("\n")}>
        <span class={`tag ${fit.fits ? "ok" : "err"}`}>{fit.fits ? (fit.loads === "maybe" ? t("maybe") : t("yes")) : t("no")}</span>{" "}
        <span class="hint">
          {fit.fits ? heap : fit.reasons.join("; ")}{" "}· {t("context up to {0}", number(fit.largest_n_ctx))}
        </span>
      </td>
      <td class="n">
        {fit.calls ? usd(fit.usd) : "–"}
        <span class="hint">
          {" "}
          {fit.calls ? t("{0} {1}, {2} tokens each at most", number(fit.calls), fit.calls === 1 ? "call" : "calls", number(fit.tokens_per_call)) : ""}
        </span>
      </td>
    </>
  );
}

function UploadLine({ upload }: { upload: Upload }) {
  const { target, size, sent, state, cycles, problem } = upload;
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
      {problem.value ? (
        <p class="problem" role="alert">
          {problem.value}
        </p>
      ) : null}
    </div>
  );
}
