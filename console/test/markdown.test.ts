import assert from "node:assert/strict";
import { test } from "node:test";
import type { VNode } from "preact";
import { Parsed } from "../src/parsed";

type Tree = string | [tag: string, properties: Record<string, unknown>, ...inside: Tree[]];

/** What the page would make of a node: texts, and elements with their properties. */
function drawn(node: unknown): Tree[] {
  if (node === null || node === undefined || typeof node === "boolean") return [];
  if (Array.isArray(node)) return node.flatMap(drawn);
  if (typeof node !== "object") return [String(node)];
  const { type, props } = node as VNode<Record<string, unknown>>;
  const { children, ...rest } = props;
  if (typeof type === "string") return [[type, rest, ...drawn(children)]];
  const draw = type as unknown as { prototype?: { render?: unknown }; (given: unknown): unknown; new (given: unknown): { props: unknown; render(): unknown } };
  if (!draw.prototype?.render) return drawn(draw.name === "CopyButton" ? null : draw(props));
  const made = new draw(props);
  made.props = props;
  return drawn(made.render());
}

const treeOf = (text: string): Tree[] => drawn({ type: Parsed, props: { text } })[0]!.slice(2) as Tree[];
const tagsOf = (tree: Tree[]): string[] => tree.flatMap((one) => (typeof one === "string" ? [] : [one[0], ...tagsOf(one.slice(2) as Tree[])]));
const textOf = (tree: Tree[]): string => tree.map((one) => (typeof one === "string" ? one : textOf(one.slice(2) as Tree[]))).join("");

test("paragraphs, lists, code and tables become elements", () => {
  assert.deepEqual(treeOf("a **b** `c`"), [["p", {}, "a ", ["strong", {}, "b"], " ", ["code", {}, "c"]]]);
  assert.deepEqual(tagsOf(treeOf("1. a\n2. b")), ["ol", "li", "p", "li", "p"]);
  assert.ok(tagsOf(treeOf("| a |\n|---|\n| b |")).includes("td"));
  assert.equal(textOf(treeOf("```js\nlet a;\n```")), "jslet a;");
  assert.equal(textOf(treeOf("# big")), "big");
  assert.deepEqual(tagsOf(treeOf("> ~~old~~")), ["blockquote", "p", "del"]);
});

const HOSTILE = [
  "<script>hacked()</script>",
  "a <img src=x onerror=hacked()> b",
  "<svg onload=hacked()>",
  "<iframe srcdoc='<script>hacked()</script>'></iframe>",
  "<style>*{display:none}</style>",
  "<a href='javascript:hacked()'>x</a>",
];

test("markup of a model stays the text that it is", () => {
  for (const text of HOSTILE) {
    assert.equal(textOf(treeOf(text)).replace(/\s+/g, " ").trim(), text);
    assert.deepEqual(tagsOf(treeOf(text)).filter((tag) => !["p", "span"].includes(tag)), []);
  }
});

test("links go to the web and to mail alone, and pictures are links", () => {
  const targetsOf = (tree: Tree[]): unknown[] =>
    tree.flatMap((one) => (typeof one === "string" ? [] : [...(one[0] === "a" ? [one[1].href] : []), ...targetsOf(one.slice(2) as Tree[])]));
  for (const url of ["javascript:hacked()", "JaVaScRiPt:hacked()", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "//evil.example"])
    assert.deepEqual(targetsOf(treeOf(`[link](${url})`)), [], url);
  assert.deepEqual(targetsOf(treeOf("[a](https://a.example/) [b](mailto:b@c.example)")), ["https://a.example/", "mailto:b@c.example"]);
  assert.deepEqual(targetsOf(treeOf("![alt](https://a.example/p.png)")), ["https://a.example/p.png"]);
  assert.equal(tagsOf(treeOf("![alt](https://a.example/p.png)")).includes("img"), false);
});
