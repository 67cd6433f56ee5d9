// What an answer is made of: text, thoughts, calls of tools, as models mark them.

export interface Part {
  kind: "text" | "thoughts" | "tool";
  text: string;
}

const MARKED = /(<think>[\s\S]*?(?:<\/think>|$)|<tool_call>[\s\S]*?(?:<\/tool_call>|$))/;

/** In order, without empty ones. A mark that is not closed yet goes to the end. */
export function partsOf(answer: string): Part[] {
  return answer
    .trim()
    .split(MARKED)
    .map((piece): Part => {
      const inner = piece.replace(/^<\w+>|<\/\w+>$/g, "").trim();
      if (piece.startsWith("<think>")) return { kind: "thoughts", text: inner };
      if (piece.startsWith("<tool_call>")) return { kind: "tool", text: inner };
      return { kind: "text", text: piece };
    })
    .filter((part) => part.text.trim() !== "");
}
