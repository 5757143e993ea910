/** Builds the page into tiles/static: one script, one style sheet, the outlines, the licences.
 *
 *     npm ci && npm run build
 *
 * Names carry a hash of the content, so that browsers may keep the files for ever. manifest.json, written last,
 * lists them; the tile server serves what it lists and nothing else.
 */

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { build } from "esbuild";
import { licences } from "./build-licences.js";
import { writeOutlines } from "./build-outlines.js";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "static");
const COMPRESSED = /\.(css|html|js|json|svg|topojson|txt)$/;

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
writeOutlines(join(here, "made"));

const bundled = await build({
  entryPoints: { app: join(here, "src/main.js"), style: join(here, "src/style.css") },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  entryNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  loader: { ".topojson": "file", ".png": "dataurl" },
  legalComments: "none", // all licences stand in licences.txt
  metafile: true,
  logLevel: "warning",
});
const made = Object.keys(bundled.metafile.outputs).map((path) => path.split("/").pop());
const named = {
  favicon: hashed("favicon.svg", readFileSync(join(here, "src/favicon.svg"))),
  licences: hashed("licences.txt", licences(join(here, "node_modules"))),
  script: made.find((name) => /^app-.*\.js$/.test(name)),
  style: made.find((name) => /^style-.*\.css$/.test(name)),
};
const page = readFileSync(join(here, "src/index.html"), "utf8");
writeFileSync(join(out, "index.html"), page.replaceAll(/@(favicon|licences|script|style)/g, (_, name) => named[name]));
const files = readdirSync(out).sort();
for (const name of files.filter((each) => COMPRESSED.test(each) && each !== "index.html")) compress(name);
writeFileSync(join(out, "manifest.json"), JSON.stringify({ format: 1, files }, null, 1) + "\n");

/** Write a file under a name with the hash of its content. */
function hashed(name, content) {
  const digest = createHash("sha256").update(content).digest("hex").slice(0, 8);
  const full = name.replace(/\.(\w+)$/, `-${digest}.$1`);
  writeFileSync(join(out, full), content);
  return full;
}

/** Compressed twins beside a file, which the server sends to whom takes them. */
function compress(name) {
  const content = readFileSync(join(out, name));
  writeFileSync(join(out, `${name}.br`), brotliCompressSync(content));
  writeFileSync(join(out, `${name}.gz`), gzipSync(content, { level: 9 }));
}
