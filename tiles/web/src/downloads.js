/** What can be taken away: the map as GeoTIFF, its thresholds as CSV, its citation, a link to this view. */

import { address, answer } from "./api.js";
import { h } from "./dom.js";
import { say } from "./toast.js";
import { csv } from "./words.js";

/**
 * Hand a text to the reader as a file.
 * @param {string} name
 * @param {string} text
 * @param {string} type
 */
export function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * Fill a box with the downloads of a subject.
 * @param {HTMLElement} box
 * @param {import("./subject.js").Subject} subject
 * @param {(error: unknown, retry?: () => void) => void} fail
 */
export function drawDownloads(box, subject, fail) {
  const { info } = subject;
  if (!info) return;
  const citation = h("p", { class: "citation", hidden: true });
  const cite = async () => {
    try {
      const response = await answer(address(subject.path("citation"), subject.query));
      citation.textContent = await response.text();
      citation.hidden = false;
      say("The citation is shown.");
    } catch (error) {
      fail(error, cite);
    }
  };
  const rows = () => [
    ["species", "grid", "group", "version", "threshold", "value", "omission", "area_km2"],
    ...Object.entries(info.thresholds).map(([key, each]) => [
      info.scientificName, info.grid, info.group, info.version, key, each.value, each.omission, each.area_km2,
    ]),
  ];
  box.replaceChildren(
    h("div", { class: "row" },
      h("a", { class: "button", href: address(subject.path("download"), subject.query), download: "" }, "GeoTIFF (COG)"),
      h("button", { type: "button", onclick: () => save(`${info.id}-${info.grid}-thresholds.csv`, csv(rows()), "text/csv") }, "Thresholds (CSV)"),
      h("button", { type: "button", onclick: cite }, "Citation"),
      h("button", { type: "button", onclick: copyLink }, "Copy link")),
    citation,
  );
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link to this view is copied.");
  } catch {
    // Without https, or without leave, a page may not write to the clipboard: the reader can.
    window.prompt("Copy this link:", location.href);
  }
}
