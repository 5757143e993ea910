/** The licences of everything of others that the built page carries. */

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

// What is bundled; the other packages only build or test the page.
const CARRIED = ["leaflet", "topojson-client", "us-atlas", "world-atlas"];
const DATA =
  "The outlines are made from Natural Earth (public domain, naturalearthdata.com) and from the cartographic boundary\n" +
  "files of the US Census Bureau (public domain), simplified.\n";

/**
 * @param {string} modules Folder node_modules.
 * @returns {string} Name, version and licence text of each.
 */
export function licences(modules) {
  const parts = CARRIED.map((name) => {
    const folder = join(modules, name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
    if (!file) throw new Error(`${name} has no licence file`);
    return `${name} ${version} (${license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
  });
  return [DATA, ...parts].join(`\n${"-".repeat(80)}\n\n`);
}
