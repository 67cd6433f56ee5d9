// The caller's prompt caches in the canister: what a chat need not decode again.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { ask, call, canister, canisterPath } from "./api";
import { conversations } from "./chats";
import { bytes, number, when } from "./format";
import { principal } from "./session";
import { Confirmed, Problem, Tiles } from "./widgets";
import { t } from "./i18n";

interface Cache {
  name: string;
  bytes: number | null;
  modified_ns: number | bigint;
  tokens: number | null;
  is_usable: boolean | null;
  tier: "slot" | "memory" | "file" | "worker";
}

interface Caches {
  caches: Cache[];
  n_caches: number;
  n_bytes: number | null;
}

const TIERS = {
  slot: "in the model’s memory",
  memory: "parked beside it",
  file: "in its file",
  worker: "at a worker",
} as const;

export function CachesPage() {
  const found = useSignal<Caches | null>(null);
  const problem = useSignal<unknown>(null);
  const refused = useRef<() => unknown>(() => undefined); // what may be done again
  const list = async (): Promise<void> => {
    try {
      found.value = (await ask<Caches>(canisterPath("caches"), undefined, { verb: "GET" })).value;
    } catch (error) {
      refused.current = look;
      problem.value = error;
    }
  };
  const look = (): Promise<void> => {
    problem.value = null;
    return list();
  };
  const remove = async (name: string): Promise<void> => {
    problem.value = null;
    try {
      await call("remove_prompt_cache", { args: ["--prompt-cache", name] });
    } catch (error) {
      refused.current = () => remove(name);
      problem.value = error;
    }
    await list();
  };
  useEffect(() => {
    void look();
  }, [canister.value, principal.value]);
  const all = found.value?.caches ?? [];
  const more = (found.value?.n_caches ?? 0) - all.length;
  const chatOf = (name: string): string => conversations.value.find((one) => one.cache === name)?.title.value ?? "";
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Caches")}>
      <h1>{t("Prompt caches")}</h1>
      <p>
        {t("A cache keeps what a model has read, so that the next call of a chat does not read it again. Without its cache a chat still goes on, and its text goes in once more.")}
      </p>
      {problem.value ? <Problem error={problem.value} again={refused.current} /> : null}
      {found.value ? (
        <Tiles
          tiles={[
            ["caches", number(found.value.n_caches)],
            ["size", bytes(found.value.n_bytes)],
            ["tokens", number(all.reduce((sum, one) => sum + (one.tokens ?? 0), 0))],
          ]}
        />
      ) : null}
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
                <th scope="col">{t("where it is")}</th>
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
                  <td>{chatOf(one.name)}</td>
                  <td class="n">{number(one.tokens)}</td>
                  <td>
                    {t(TIERS[one.tier])}
                    {one.is_usable === false ? <span class="hint"> · {t("made with another model")}</span> : null}
                  </td>
                  <td class="n">{bytes(one.bytes)}</td>
                  <td>{when(one.modified_ns)}</td>
                  <td class="n">
                    <Confirmed
                      question={t("Remove the cache {0}?", one.name)}
                      label={t("Remove the cache {0}", one.name)}
                      act={() => remove(one.name)}
                    >
                      {t("Remove")}
                    </Confirmed>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ) : found.value ? (
        <p class="hint">{t("There is none yet: a chat makes one.")}</p>
      ) : null}
      {more > 0 ? <p class="hint">{t("{0} older ones are not shown.", number(more))}</p> : null}
    </div>
  );
}
