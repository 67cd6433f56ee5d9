// Bundles src/ into the folder that is named, dist/ by default.
import { copyFile, mkdir, rm, writeFile } from "node:fs/promises";
import { readFile } from "node:fs/promises";
import { build } from "esbuild";

const out = process.argv[2] ?? "dist";
await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
await build({
  entryPoints: ["src/main.tsx", "src/console.css"],
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  // The browser's variant of this package makes elements out of text, which Trusted Types refuse.
  alias: { "decode-named-character-reference": "./node_modules/decode-named-character-reference/index.js" },
  legalComments: "eof",
  logLevel: "warning",
});
await copyFile("src/icon.svg", `${out}/icon.svg`);
await writeFile(`${out}/index.html`, await readFile("src/index.html"));
