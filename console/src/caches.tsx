// The caller's prompt caches in the canister: what a chat need not decode again.
import { useSignal } from "@preact/signals";
import { call, canisterPath } from "./api";
import { useAttempts, useReading } from "./attempts";
import { conversations } from "./chats";
import { bytes, number, when } from "./format";
import { principal } from "./session";
import { ACTIONS, Confirmed, Table, Tiles } from "./widgets";
import { t } from "./i18n";
import { useListing } from "./listing";

interface Cache {
  name: string;
  bytes: number | null;
  modified_ns: number | bigint;
  tokens: number | null;
  is_usable: boolean | null;
  tier: "slot" | "memory" | "file" | "worker";
}

interface Sums {
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
  const sums = useSignal<Sums | null>(null);
  const caches = useListing<Cache>(canisterPath("caches"), "caches");
  const { attempt, told } = useAttempts();
  const look = async (): Promise<void> => {
    const { n_caches, n_bytes } = (await caches.look()) as unknown as Sums;
    sums.value = { n_caches, n_bytes };
  };
  const remove = async (name: string): Promise<void> => {
    await attempt(() => call("remove_prompt_cache", { args: ["--prompt-cache", name] }));
    await attempt(look, true);
  };
  useReading(() => attempt(look), [principal.value]);
  const all = caches.rows ?? [];
  const left = (sums.value?.n_caches ?? 0) - all.length;
  const chatOf = (name: string): string => conversations.value.find((one) => one.cache === name)?.title.value ?? "";
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Caches")}>
      <h1>{t("Prompt caches")}</h1>
      <p>
        {t("A cache keeps what a model has read, so that the next call of a chat does not read it again. Without its cache a chat still goes on, and its text goes in once more.")}
      </p>
      {told}
      {sums.value ? (
        <Tiles
          tiles={[
            ["caches", number(sums.value.n_caches)],
            ["size", bytes(sums.value.n_bytes)],
            ["tokens", number(all.reduce((sum, one) => sum + (one.tokens ?? 0), 0))],
          ]}
        />
      ) : null}
      {all.length ? (
        <Table label={t("Caches of the caller")} columns={[t("cache"), t("chat of this browser"), [t("tokens"), "n"], t("where it is"), [t("size"), "n"], t("written"), ACTIONS]}>
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
        </Table>
      ) : sums.value ? (
        <p class="hint">{t("There is none yet: a chat makes one.")}</p>
      ) : null}
      {left > 0 ? <p class="hint">{t("{0} older ones are not shown.", number(left))}</p> : null}
      {caches.more(attempt)}
    </div>
  );
}
