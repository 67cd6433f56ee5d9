// Who may do what: the access level, roles, and API keys.
import { useSignal } from "@preact/signals";
import { useRef, useState } from "preact/hooks";
import { ask, call } from "./api";
import { useAttempts, useReading } from "./attempts";
import { shortPrincipal, when } from "./format";
import type { AdminRoleAssignment } from "./interface";
import { ACTIONS, Confirmed, CopyButton, Table } from "./widgets";
import { t } from "./i18n";
import { useListing } from "./listing";

interface Key {
  name: string;
  principal: string;
  created_ns: number | bigint;
  expires_ns: number | bigint | null;
  is_expired: boolean;
}

const LEVELS = ["Only controllers and admins may chat", "Everybody with an API key may chat"];

export function AccessPage() {
  return (
    <div class="page" tabIndex={0} role="region" aria-label={t("Access")}>
      <h1>{t("Access")}</h1>
      <Level />
      <Roles />
      <Keys />
    </div>
  );
}

function Level() {
  const level = useSignal<number | null>(null);
  const { attempt, told } = useAttempts("controller");
  const run = (act: () => Promise<{ value: { level: number } }>): Promise<boolean> =>
    attempt(async () => (level.value = (await act()).value.level));
  useReading(() => run(() => call("get_access")));
  return (
    <section aria-label={t("Level")}>
      <h2>{t("Level")}</h2>
      {told}
      {level.value === null ? null : (
        <fieldset>
          <legend>{t("Who may use the model")}</legend>
          {LEVELS.map((text, at) => (
            <label key={at} class="inline">
              <input
                type="radio"
                name="level"
                checked={level.value === at}
                onChange={() => void run(() => call("set_access", { level: at }))}
              />
              {t(text)}
            </label>
          ))}
        </fieldset>
      )}
    </section>
  );
}

function Roles() {
  const roles = useSignal<AdminRoleAssignment[] | null>(null);
  const { attempt, told } = useAttempts("controller");
  const form = useRef<HTMLFormElement>(null);
  const look = async (): Promise<unknown> => (roles.value = (await call("getAdminRoles")).value);
  const change = async (act: () => Promise<unknown>): Promise<void> => {
    await attempt(async () => {
      await act();
      form.current?.reset();
    });
    await attempt(look, true);
  };
  useReading(() => attempt(look));
  return (
    <section aria-label={t("Roles")}>
      <h2>{t("Roles")}</h2>
      {told}
      <ul class="plain">
        {(roles.value ?? []).map((one) => (
          <li key={one.principal}>
            <code title={one.principal}>{shortPrincipal(one.principal)}</code> {one.role}{" "}
            <span class="hint">{one.note}</span>{" "}
            <button type="button" class="quiet" onClick={() => void change(() => call("revokeAdminRole", one.principal))}>
              {t("Revoke")}
            </button>
          </li>
        ))}
      </ul>
      {roles.value?.length === 0 ? <p class="hint">{t("Nobody has a role besides the controllers.")}</p> : null}
      {roles.value ? (
        <form
          ref={form}
          class="row form"
          onSubmit={(event) => {
            event.preventDefault();
            const given = new FormData(event.currentTarget);
            const [principal, note] = [String(given.get("principal")).trim(), String(given.get("note"))];
            const role = given.get("role") === "AdminUpdate" ? "AdminUpdate" : "AdminQuery";
            void change(() => call("assignAdminRole", { principal, role, note }));
          }}
        >
          <label>
            {t("Principal")}
            <input name="principal" required spellcheck={false} />
          </label>
          <label>
            {t("Role")}
            <select name="role">
              <option>{t("AdminQuery")}</option>
              <option>{t("AdminUpdate")}</option>
            </select>
          </label>
          <label>
            {t("Note")}
            <input name="note" />
          </label>
          <button type="submit">{t("Assign")}</button>
        </form>
      ) : null}
    </section>
  );
}

function Keys() {
  const keys = useListing<Key>("keys", "keys");
  const { attempt, told } = useAttempts("controller");
  const [made, setMade] = useState<{ name: string; key: string } | null>(null);
  const form = useRef<HTMLFormElement>(null);
  const change = async (act: () => Promise<unknown>): Promise<void> => {
    await attempt(act);
    await attempt(keys.look, true);
  };
  useReading(() => attempt(keys.look));
  return (
    <section aria-label={t("API keys")}>
      <h2>{t("API keys")}</h2>
      {told}
      {made ? (
        <p class="made" role="status">
          {t("The key of {0}, which is shown only now:", made.name)}{" "}<code>{made.key}</code> <CopyButton text={made.key} />
        </p>
      ) : null}
      {keys.rows ? (
        <>
          <form
            ref={form}
            class="row form"
            onSubmit={(event) => {
              event.preventDefault();
              const given = new FormData(event.currentTarget);
              const expires = String(given.get("expires")).trim() || null;
              void change(async () => {
                const name = String(given.get("name")).trim();
                setMade((await ask<{ name: string; key: string }>("keys", { name, expires })).value);
                form.current?.reset();
              });
            }}
          >
            <label>
              {t("Name")}
              <input name="name" required spellcheck={false} />
            </label>
            <label>
              {t("Lifetime (such as 30d; empty: no end)")}
              <input name="expires" spellcheck={false} />
            </label>
            <button type="submit">{t("Create a key")}</button>
          </form>
          <Table label={t("Keys")} columns={[t("name"), t("stands for"), t("created"), t("expires"), ACTIONS]}>
            {keys.rows.map((one) => (
              <tr key={one.name}>
                <td>{one.name}</td>
                <td>
                  <code title={one.principal}>{shortPrincipal(one.principal)}</code>
                </td>
                <td>{when(one.created_ns)}</td>
                <td>{one.expires_ns === null ? t("never") : one.is_expired ? t("expired") : when(one.expires_ns)}</td>
                <td class="n">
                  <Confirmed
                    question={t("Revoke the key {0}? Programs that use it are refused from now on.", one.name)}
                    label={t("Revoke the key {0}", one.name)}
                    act={() => change(() => ask(`keys/${encodeURIComponent(one.name)}`, undefined, { verb: "DELETE" }))}
                  >
                    {t("Revoke")}
                  </Confirmed>
                </td>
              </tr>
            ))}
          </Table>
          {keys.more(attempt)}
        </>
      ) : null}
    </section>
  );
}
