// A form for every method, made from the OpenAPI document, which is made from the interface table.
import { useSignal } from "@preact/signals";
import { useState } from "preact/hooks";
import { ask, CallError, canisterPath, messageOf, toJson, type Cost } from "./api";
import { useReading } from "./attempts";
import { milliseconds, number } from "./format";
import { Budget, Problem } from "./widgets";
import { t } from "./i18n";

const PREFIX = "/canisters/{canister}/";

interface Schema {
  $ref?: string;
  type?: string | string[];
  enum?: string[];
  anyOf?: Schema[];
  properties?: Record<string, Schema>;
  items?: Schema;
  pattern?: string;
  contentEncoding?: string;
}

interface Operation {
  summary?: string;
  description?: string;
  tags?: string[];
  operationId?: string;
  requestBody?: { content: Record<string, { schema?: Schema; example?: unknown } | undefined> };
}

interface Document {
  paths: Record<string, { post?: Operation; get?: Operation }>;
  components: { schemas: Record<string, Schema> };
}

interface Method {
  name: string;
  group: string;
  summary: string;
  description: string;
  isQuery: boolean;
  schema: Schema | null;
  example: unknown;
}

let document_: Document | null = null;

const resolved = (schema: Schema): Schema =>
  schema.$ref ? (document_?.components.schemas[schema.$ref.split("/").at(-1) ?? ""] ?? {}) : schema;

type Kind = "object" | "array" | "enum" | "boolean" | "number" | "optional number" | "text";

function kindOf(given: Schema): Kind {
  const schema = resolved(given);
  if (schema.enum) return "enum";
  const options = schema.anyOf?.filter((one) => one.type !== "null");
  if (options?.length) {
    const isNumber = options.some((one) => one.type === "integer" || one.type === "number" || one.pattern === "^[0-9]+$");
    if (isNumber) return options.length < (schema.anyOf?.length ?? 0) ? "optional number" : "number";
    return kindOf(options[0] ?? {});
  }
  if (schema.type === "object") return "object";
  if (schema.type === "array") return "array";
  if (schema.type === "boolean") return "boolean";
  if (schema.type === "integer" || schema.type === "number") return "number";
  return "text";
}

function methodsOf(found: Document): Method[] {
  return Object.entries(found.paths).flatMap(([path, { post }]) => {
    const name = path.slice(PREFIX.length);
    // Those with a path of their own are no methods: REST offers them beside the interface.
    if (!path.startsWith(PREFIX) || post?.operationId !== name) return [];
    const body = post.requestBody?.content["application/json"];
    return {
      name,
      group: post.tags?.[0] ?? "",
      summary: post.summary ?? "",
      description: (post.description ?? "").replace(post.summary ?? "", "").trim(),
      isQuery: /\bchanges nothing\b/.test(post.description ?? ""),
      schema: body?.schema ?? null,
      example: body?.example,
    };
  });
}

export function MethodsPage() {
  const methods = useSignal<Method[] | null>(null);
  const problem = useSignal<unknown>(null);
  const [name, setName] = useState(location.hash.split("/")[2] ?? "whoami");
  const read = async (): Promise<void> => {
    try {
      document_ ??= (await ask<Document>("openapi.json", undefined, { verb: "GET" })).value;
      methods.value ??= methodsOf(document_);
    } catch (error) {
      problem.value = error;
    }
  };
  useReading(read);
  const all = methods.value ?? [];
  const one = all.find((each) => each.name === name) ?? all[0];
  if (!one)
    return (
      <div class="page">
        <h1>{t("Methods")}</h1>
        {problem.value ? <Problem error={problem.value} again={read} /> : <p class="hint">{t("Loading the interface…")}</p>}
      </div>
    );
  return (
    <div class="split">
      <nav class="list" aria-label={t("Methods")}>
        {[...new Set(all.map((each) => each.group))].map((group) => (
          <section key={group} aria-label={group}>
            <h3>{group}</h3>
            <ul>
              {all
                .filter((each) => each.group === group)
                .map((each) => (
                  <li key={each.name}>
                    <button
                      type="button"
                      class={`item ${each === one ? "current" : ""}`}
                      aria-current={each === one}
                      onClick={() => {
                        setName(each.name);
                        history.replaceState(null, "", `#/methods/${each.name}`);
                      }}
                    >
                      <code>{each.name}</code>
                    </button>
                  </li>
                ))}
            </ul>
          </section>
        ))}
      </nav>
      <div class="page" tabIndex={0} role="region" aria-label={t("Method")}>
        <h1>
          <code>{one.name}</code>
        </h1>
        <Form key={one.name} method={one} />
      </div>
    </div>
  );
}

interface Answered {
  text: string;
  kind: string;
  cost: Cost | null;
  ms: number;
}

function Form({ method }: { method: Method }) {
  const [value, setValue] = useState<unknown>(method.example ?? null);
  const [isJson, setJson] = useState(false);
  const [text, setText] = useState("");
  const [answered, setAnswered] = useState<Answered | null>(null);
  const [isBusy, setBusy] = useState(false);
  const send = async (): Promise<void> => {
    setBusy(true);
    try {
      const arg = method.schema === null ? undefined : isJson ? text : toJson(value);
      const { value: found, cost, ms } = await ask(canisterPath(method.name), arg);
      setAnswered({ text: typeof found === "string" ? found : toJson(found, 2), kind: "Ok", cost, ms });
    } catch (error) {
      const [kind, cost] = error instanceof CallError ? [error.kind, error.cost] : ["page", null];
      setAnswered({ text: messageOf(error), kind, cost, ms: 0 });
    }
    setBusy(false);
  };
  return (
    <form
      class="method"
      onSubmit={(event) => {
        event.preventDefault();
        void send();
      }}
    >
      <p>{method.summary}</p>
      {method.description ? <p class="hint">{method.description}</p> : null}
      {method.schema === null ? <p class="hint">{t("It takes no argument.")}</p> : null}
      {method.schema ? (
        <label class="inline">
          <input
            type="checkbox"
            checked={isJson}
            onChange={(event) => {
              setJson(event.currentTarget.checked);
              setText(toJson(value, 2));
            }}
          />
          {t("as JSON")}
        </label>
      ) : null}
      {method.schema && isJson ? (
        <textarea class="code" rows={8} aria-label={t("Argument as JSON")} value={text} onInput={(event) => setText(event.currentTarget.value)} />
      ) : null}
      {method.schema && !isJson ? <Field name="" schema={method.schema} value={value} set={setValue} /> : null}
      <div class="actions">
        <button type="submit" class="primary" disabled={isBusy}>
          {isBusy ? t("Calling…") : method.isQuery ? t("Query") : t("Call")}
        </button>
      </div>
      {answered ? (
        <div role="status">
          <figure class={`answer ${answered.kind === "Ok" ? "" : "problem"}`}>
            <figcaption>
              {answered.kind} {answered.ms ? `· ${milliseconds(answered.ms)}` : ""}{" "}
              {answered.cost ? (
                <>
                  · {number(answered.cost.instructions)}{" "}{t("instructions")}{" "}<Budget cost={answered.cost} />
                </>
              ) : null}
            </figcaption>
            <pre tabIndex={0}>{answered.text}</pre>
          </figure>
        </div>
      ) : null}
    </form>
  );
}

interface FieldGiven {
  name: string;
  schema: Schema;
  value: unknown;
  set: (to: unknown) => void;
}

function Field({ name, schema: given, value, set }: FieldGiven) {
  const schema = resolved(given);
  const kind = kindOf(given);
  const inside = (part: string | number): string => (name ? `${name}.${part}` : String(part));
  switch (kind) {
    case "object": {
      const held = (value ?? {}) as Record<string, unknown>;
      return (
        <fieldset>
          <legend>{name || t("argument")}</legend>
          {Object.entries(schema.properties ?? {}).map(([part, of]) => (
            <Field key={part} name={inside(part)} schema={of} value={held[part]} set={(to) => set({ ...held, [part]: to })} />
          ))}
        </fieldset>
      );
    }
    case "array": {
      const held = (value ?? []) as unknown[];
      return (
        <fieldset>
          <legend>{name || t("argument")}</legend>
          {held.map((one, at) => (
            <div class="row" key={at}>
              <Field
                name={inside(at)}
                schema={schema.items ?? {}}
                value={one}
                set={(to) => set(held.map((other, n) => (n === at ? to : other)))}
              />
              <button type="button" aria-label={t("Remove {0}", inside(at))} onClick={() => set(held.filter((_, n) => n !== at))}>
                −
              </button>
            </div>
          ))}
          <button type="button" onClick={() => set([...held, kindOf(schema.items ?? {}) === "text" ? "" : null])}>
            {t("Add")}
          </button>
        </fieldset>
      );
    }
    case "enum":
      return (
        <label>
          {name || t("argument")}
          <select value={String(value ?? "")} onChange={(event) => set(event.currentTarget.value)}>
            {(schema.enum ?? []).map((one) => (
              <option key={one} value={one}>
                {one}
              </option>
            ))}
          </select>
        </label>
      );
    case "boolean":
      return (
        <label class="inline">
          <input type="checkbox" checked={value === true} onChange={(event) => set(event.currentTarget.checked)} />
          {name || t("argument")}
        </label>
      );
    case "number":
    case "optional number":
      return (
        <label>
          {name || t("argument")} <span class="hint">{kind}</span>
          <input
            inputMode="numeric"
            value={value == null ? "" : String(value)}
            onInput={(event) => set(event.currentTarget.value === "" ? null : asNumber(event.currentTarget.value))}
          />
        </label>
      );
    default: // an input would drop line breaks
      return (
        <label>
          {name || t("argument")}
          <textarea rows={1} spellcheck={false} value={value == null ? "" : String(value)} onInput={(event) => set(event.currentTarget.value)} />
        </label>
      );
  }
}

/** What a double cannot hold goes as a text, which the server takes too. */
function asNumber(text: string): number | string {
  const found = Number(text);
  return Number.isSafeInteger(found) || (Number.isFinite(found) && /[.e]/i.test(text)) ? found : text;
}
