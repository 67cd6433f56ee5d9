// The pages, in the order of the navigation. key: the letter behind `g` that goes there.
import type { FunctionComponent } from "preact";
import { AccessPage } from "./access";
import { CachesPage } from "./caches";
import { ChatPage } from "./chat";
import { CostsPage } from "./costs";
import { EnginePage } from "./engine";
import { MethodsPage } from "./methods";
import { ModelsPage } from "./models";

export interface Page {
  name: string;
  title: string;
  key: string;
  Body: FunctionComponent;
}

export const PAGES: Page[] = [
  { name: "chat", title: "Chat", key: "c", Body: ChatPage },
  { name: "models", title: "Models", key: "m", Body: ModelsPage },
  { name: "costs", title: "Costs", key: "o", Body: CostsPage },
  { name: "caches", title: "Caches", key: "p", Body: CachesPage },
  { name: "engine", title: "Engine", key: "e", Body: EnginePage },
  { name: "methods", title: "Methods", key: "f", Body: MethodsPage },
  { name: "access", title: "Access", key: "a", Body: AccessPage },
];
