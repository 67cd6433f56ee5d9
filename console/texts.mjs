// Which texts of the page no reader of another language gets: `node texts.mjs` prints them and exits 1.
//
// A text that stands in the sources as it is must go through t(), and each language must have all of them. Texts that are
// kept in tables and translated where they are shown are listed in src/lang/tables.txt.
import { readdirSync, readFileSync } from "node:fs";
import ts from "typescript";

const SHOWN = new Set(["aria-label", "title", "placeholder", "label", "text"]);
const CODE = new Set(["code", "pre", "kbd"]);
const AS_IT_IS = new Set(["llama-canister", "AdminQuery", "AdminUpdate", "API"]);
const isText = (text) => /\p{L}{2,}/u.test(text) && !AS_IT_IS.has(text.trim());

const source = (name) => ts.createSourceFile(name, readFileSync(name, "utf8"), ts.ScriptTarget.ES2022, true);
const found = new Set();
const wrong = [];

function look(name) {
  const file = source(name);
  const at = (node) => `${name}:${file.getLineAndCharacterOfPosition(node.getStart()).line + 1}`;
  const isCode = (node) => ts.isJsxElement(node) && CODE.has(node.openingElement.tagName.getText());
  const bare = (node) => {
    if (ts.isConditionalExpression(node)) [node.whenTrue, node.whenFalse].forEach(bare);
    else if (ts.isParenthesizedExpression(node)) bare(node.expression);
    else if (ts.isStringLiteralLike(node) && isText(node.text)) wrong.push(`${at(node)}: ${node.text}`);
  };
  const walk = (node) => {
    if (isCode(node)) return;
    if (ts.isJsxText(node) && isText(node.text)) wrong.push(`${at(node)}: ${node.text.trim()}`);
    if (ts.isCallExpression(node) && node.expression.getText() === "t") {
      const [key] = node.arguments;
      if (ts.isStringLiteralLike(key) && isText(key.text)) found.add(key.text);
    }
    if (ts.isJsxAttribute(node) && SHOWN.has(node.name.getText()) && node.initializer)
      bare(ts.isJsxExpression(node.initializer) ? node.initializer.expression : node.initializer);
    if (ts.isJsxExpression(node) && node.expression && !ts.isJsxAttribute(node.parent)) bare(node.expression);
    if (ts.isNewExpression(node) && node.expression.getText() === "Error" && node.arguments?.[0]) bare(node.arguments[0]);
    ts.forEachChild(node, walk);
  };
  walk(file);
}

const keysOf = (name) => {
  const keys = [];
  const walk = (node) => {
    if (ts.isPropertyAssignment(node)) keys.push(node.name.text);
    ts.forEachChild(node, walk);
  };
  walk(source(name));
  return keys;
};

for (const name of readdirSync("src")) if (/\.tsx?$/.test(name)) look(`src/${name}`);
for (const text of [...readFileSync("src/lang/tables.txt", "utf8").split("\n")]) if (text) found.add(text);
for (const name of readdirSync("src/lang").filter((one) => one.endsWith(".ts"))) {
  const has = new Set(keysOf(`src/lang/${name}`));
  for (const key of found) if (!has.has(key)) wrong.push(`lang/${name} lacks ${JSON.stringify(key)}`);
  for (const key of has) if (!found.has(key)) wrong.push(`lang/${name} has ${JSON.stringify(key)}, which is shown nowhere`);
}
if (process.argv[2] === "--list") console.log(JSON.stringify([...found]));
else if (wrong.length) {
  console.log(wrong.join("\n"));
  process.exit(1);
}
