// The pages, in the order of the navigation. key: the letter behind `g` that goes there.
import type { FunctionComponent } from "preact";
import { ChatPage } from "./chat";

export interface Page {
  name: string;
  title: string;
  key: string;
  Body: FunctionComponent;
}

export const PAGES: Page[] = [{ name: "chat", title: "Chat", key: "c", Body: ChatPage }];
