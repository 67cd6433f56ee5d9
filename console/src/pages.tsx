// The pages, in the order of the navigation. key: the letter behind `g` that goes there. All but the first come when
// they are asked for, so that the first load is small.
import { useSignal } from "@preact/signals";
import type { FunctionComponent } from "preact";
import { useEffect } from "preact/hooks";
import { ChatPage } from "./chat";
import { hasAo, isHerd, refresh } from "./session";
import { t } from "./i18n";

export interface Page {
  name: string;
  title: string;
  key: string;
  Body: FunctionComponent;
  /** Is there anything to show? Absent: always. */
  isThere?: () => boolean;
}

function late(load: () => Promise<FunctionComponent>): FunctionComponent {
  let found: FunctionComponent | null = null;
  return function Late() {
    const Body = useSignal<FunctionComponent | null>(found);
    const problem = useSignal<Error | null>(null);
    useEffect(() => {
      if (found) return;
      load().then(
        (one) => {
          found = one;
          Body.value = one;
        },
        () => {
          problem.value = new Error(t("This page could not be fetched. The server is away, or has been updated: load the console again."));
          void refresh(); // which tells a server that is away from one that was updated
        },
      );
    }, []);
    if (problem.value) throw problem.value;
    return Body.value ? <Body.value /> : null;
  };
}

const ALL: Page[] = [
  { name: "chat", title: "Chat", key: "c", Body: ChatPage },
  { name: "models", title: "Models", key: "m", Body: late(async () => (await import("./models")).ModelsPage) },
  { name: "costs", title: "Costs", key: "o", Body: late(async () => (await import("./costs")).CostsPage) },
  { name: "lab", title: "Cost lab", key: "b", Body: late(async () => (await import("./lab_page")).LabPage) },
  { name: "caches", title: "Caches", key: "p", Body: late(async () => (await import("./caches")).CachesPage) },
  { name: "engine", title: "Engine", key: "e", Body: late(async () => (await import("./engine")).EnginePage) },
  { name: "methods", title: "Methods", key: "f", Body: late(async () => (await import("./methods")).MethodsPage) },
  { name: "access", title: "Access", key: "a", Body: late(async () => (await import("./access")).AccessPage) },
  {
    name: "herd",
    title: "Herd",
    key: "h",
    Body: late(async () => (await import("./herd")).HerdPage),
    isThere: () => isHerd.value,
  },
  {
    name: "ao",
    title: "AO",
    key: "u",
    Body: late(async () => (await import("./ao")).AoPage),
    isThere: () => hasAo.value,
  },
  { name: "logs", title: "Logs", key: "l", Body: late(async () => (await import("./logs")).LogsPage) },
  { name: "settings", title: "Settings", key: "s", Body: late(async () => (await import("./settings")).SettingsPage) },
];

/** Those that there is something to show on. */
export const pages = (): Page[] => ALL.filter((one) => one.isThere?.() ?? true);
