// Models: those in the canister, the one that is loaded, and how others get in.
import { useSignal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { ask, call, canisterPath, messageOf } from "./api";
import { useAttempts, useReading } from "./attempts";
import { ANSWER, FitCells, type Fit } from "./fit";
import { bytes, number, short } from "./format";
import { choose, DropZone, Incoming } from "./incoming";
import { current, modelKind, modelName, refresh } from "./session";
import { loadShipped } from "./shipped";
import { ACTIONS, Confirmed, Table } from "./widgets";
import { t } from "./i18n";
import { useListing } from "./listing";

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

const WAIT_MS = 400; // after the last key
const MOST_FITS = 20; // models that are looked at without being asked

export function ModelsPage() {
  const models = useListing<Model>(canisterPath("models"), "models");
  const fits = useSignal<Record<string, Fit | string>>({});
  const { attempt, told } = useAttempts();
  const [busy, setBusy] = useState("");
  const [context, setContext] = useState("");
  const args = context ? ["--ctx-size", context] : [];
  const picker = useRef<HTMLInputElement>(null);

  useReading(() => attempt(models.look));

  // What loading would mean, before it is done.
  useEffect(() => {
    let isOver = false;
    const look = async (): Promise<void> => {
      for (const { path, problem: why } of (models.rows ?? []).slice(0, MOST_FITS)) {
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
  }, [models.rows, context]);

  /** Do something that changes what is here; what it is refused for is told. */
  const change = async (what: string, act: () => Promise<unknown>): Promise<void> => {
    setBusy(what);
    await attempt(act);
    await attempt(models.look, true);
    await refresh();
    setBusy("");
  };

  const load = (path: string): Promise<unknown> =>
    call("load_model", { args: ["--model", path, ...args] });

  const take = (files: Iterable<File>): Promise<boolean> => attempt(() => choose(files, args));

  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Models")}>
      <h1>{t("Models")}</h1>
      <p>
        {t("Loaded:")}{" "}<b>{modelName.value || t("none")}</b> <span class="hint">{modelKind.value}</span>{" "}
        {current.value?.ready ? (
          <button
            type="button"
            disabled={busy !== ""}
            onClick={() => void change("unload", () => ask(canisterPath("engine"), undefined, { verb: "DELETE" }))}
          >
            {t("Unload")}
          </button>
        ) : (
          <button type="button" class="primary" disabled={busy !== ""} onClick={() => void change("shipped", () => loadShipped(args))}>
            {busy === "shipped" ? t("Loading…") : t("Load the shipped model")}
          </button>
        )}
      </p>
      <DropZone take={(files) => void take(files)} pick={() => picker.current?.click()} />
      <input
        type="file"
        accept=".gguf"
        multiple
        ref={picker}
        hidden
        aria-label={t("Model to upload")}
        onChange={(event) => {
          const input = event.currentTarget;
          void take([...(input.files ?? [])]).then(() => (input.value = "")); // so that the same file can be chosen again
        }}
      />
      <Incoming onSent={() => void attempt(models.look, true)} />
      {told}
      <label class="inline">
        {t("Context in tokens when loading (empty: as the model says)")}
        <input class="short" inputMode="numeric" pattern="[0-9]*" value={context} onInput={(event) => setContext(event.currentTarget.value.trim())} />
      </label>
      {models.rows?.length ? (
        <Table label={t("Models in the canister")} kind="models" columns={[t("file"), t("model"), [t("size"), "n"], [t("parameters"), "n"], [t("context"), "n"], t("fits the Internet Computer"), [t("an answer costs"), "n"], ACTIONS]}>
          {models.rows.map((one) => (
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
              <FitCells fit={fits.value[one.path]} />
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
                    <Confirmed
                      question={t("Remove {0} ({1})?", one.path, bytes(one.bytes))}
                      label={t("Remove {0}", one.path)}
                      disabled={busy !== ""}
                      act={() => change(one.path, () => call("filesystem_remove", { filename: one.path }))}
                    >
                      {t("Remove")}
                    </Confirmed>
                  </>
                )}
              </td>
            </tr>
          ))}
        </Table>
      ) : null}
      {models.more(attempt)}
      {models.rows?.length ? (
        <p class="hint">
          {t(
            "An answer: {0} tokens to a prompt of {1}, in a chat of its own. The main network’s limits and prices; weights are not read for it.",
            ANSWER.answer_tokens,
            ANSWER.prompt_tokens,
          )}
        </p>
      ) : null}
      {models.rows?.length === 0 ? <p class="hint">{t("No model is here yet.")}</p> : null}
    </div>
  );
}
