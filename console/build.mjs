// Bundles src/ into the folder that is named, dist/ by default.
import { copyFile, mkdir, rm, writeFile } from "node:fs/promises";
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { build } from "esbuild";

const out = process.argv[2] ?? "dist";
await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const { metafile } = await build({
  metafile: true,
  entryPoints: ["src/main.tsx", "src/console.css"],
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  // Pages other than the first come when they are asked for.
  splitting: true,
  chunkNames: "[name]-[hash]",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  // The browser's variant of this package makes elements out of text, which Trusted Types refuse.
  alias: { "decode-named-character-reference": "./node_modules/decode-named-character-reference/index.js" },
  legalComments: "eof",
  logLevel: "warning",
});
await copyFile("src/icon.svg", `${out}/icon.svg`);

// What the first page needs is fetched at once, and not one after another.
const first = new Set();
const visit = (name) => {
  if (first.has(name)) return;
  first.add(name);
  for (const { path, kind } of metafile.outputs[name].imports) if (kind === "import-statement") visit(path);
};
visit(`${out}/main.js`);
const links = [...first].slice(1).map((name) => `<link rel="modulepreload" href="{{base}}/${basename(name)}">\n`);
const page = await readFile("src/index.html", "utf8");
await writeFile(`${out}/index.html`, page.replace("<script ", `${links.join("")}<script `));
