// The caller's prompt caches in the canister: what a chat need not decode again.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ask, call, CallError, canister, canisterPath } from "./api";
import { conversations } from "./chats";
import { bytes, number, when } from "./format";
import { principal } from "./session";
import { Problem, Tiles } from "./widgets";
import { t } from "./i18n";

const BESIDE = ".icppfmt"; // a small file beside each cache

interface Entry {
  name: string;
  path: string;
  type: "file" | "directory";
  bytes: number;
  modified_ns: number | bigint;
}

export function CachesPage() {
  const entries = useSignal<Entry[] | null>(null);
  const problem = useSignal<unknown>(null);
  const list = async (): Promise<void> => {
    if (!principal.value) return;
    try {
      const path = canisterPath(`files/.canister_cache/${principal.value}/sessions/`);
      const found = (await ask<{ entries: Entry[] }>(path, undefined, { verb: "GET" })).value.entries;
      entries.value = found.filter((one) => one.type === "file" && !one.name.endsWith(BESIDE));
      problem.value = null;
    } catch (error) {
      if (error instanceof CallError && error.status === 404) entries.value = [];
      else problem.value = error;
    }
  };
  const remove = async (name: string): Promise<void> => {
    try {
      await call("remove_prompt_cache", { args: ["--prompt-cache", name] });
    } catch (error) {
      problem.value = error;
    }
    await list();
  };
  useEffect(() => void list(), [canister.value, principal.value]);
  const all = entries.value ?? [];
  const chatOf = (name: string) => conversations.value.find((one) => one.cache === name);
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Caches")}>
      <h1>{t("Prompt caches")}</h1>
      <p>
        {t("A cache keeps what a model has read, so that the next call of a chat does not read it again. Without its cache a chat still goes on, and its text goes in once more.")}
      </p>
      {problem.value ? <Problem error={problem.value} /> : null}
      <Tiles
        tiles={[
          ["caches", number(all.length)],
          ["size", bytes(all.reduce((sum, one) => sum + one.bytes, 0))],
        ]}
      />
      {all.length ? (
        <div class="scroll" tabIndex={0} role="region" aria-label={t("Caches of the caller")}>
          <table>
            <thead>
              <tr>
                <th scope="col">{t("cache")}</th>
                <th scope="col">{t("chat of this browser")}</th>
                <th scope="col" class="n">
                  {t("tokens")}
                </th>
                <th scope="col" class="n">
                  {t("size")}
                </th>
                <th scope="col">{t("written")}</th>
                <th scope="col">
                  <span class="sr">{t("what can be done")}</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {all.map((one) => (
                <tr key={one.name}>
                  <td>
                    <code>{one.name}</code>
                  </td>
                  <td>{chatOf(one.name)?.title.value ?? ""}</td>
                  <td class="n">{number(chatOf(one.name)?.context.value)}</td>
                  <td class="n">{bytes(one.bytes)}</td>
                  <td>{when(one.modified_ns)}</td>
                  <td class="n">
                    <button
                      type="button"
                      class="quiet"
                      aria-label={t("Remove the cache {0}", one.name)}
                      onClick={() => {
                        if (confirm(t("Remove the cache {0}?", one.name))) void remove(one.name);
                      }}
                    >
                      {t("Remove")}
                    </button>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ) : entries.value ? (
        <p class="hint">{t("There is none yet: a chat makes one.")}</p>
      ) : null}
    </div>
  );
}
