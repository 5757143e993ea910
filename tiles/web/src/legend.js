/** The legend: the very colours that paint the tiles, what the number means, and how sure the map is. */

import { h, plainName, speciesName } from "./dom.js";
import { PRESENT, cutLevel, shownEntries } from "./lut.js";
import { amount, count, score, sentence } from "./words.js";

const HARDLY = 0.02; // a gain in AUC below this is told as hardly any
const FEW = 30; // fewer records than this make a rough score
const SCORES = { auc: "AUC", ap: "Average precision", brier: "Brier score", boyce: "Boyce index" };

/**
 * Fill a box with the legend of a subject.
 * @param {HTMLElement} box
 * @param {import("./subject.js").Subject} subject
 * @param {import("./state.js").State} state
 */
export function drawLegend(box, subject, state) {
  const { info, legend, band } = subject;
  if (!info || !legend || !band) {
    box.replaceChildren();
    return;
  }
  const threshold = subject.threshold(state.threshold);
  const cut = cutLevel(threshold, band);
  const show = subject.cuttable ? state.show : "all";
  box.replaceChildren(
    h("div", { class: "legend-title" }, sentence(legend.title.replace(`${info.scientificName}: `, ""))),
    bar(legend, band, shownEntries(show, cut), plainName(info), state.opacity),
    h(
      "ul",
      { class: "keys" },
      show === "all"
        ? key(legend.palette[0], `${amount(band.low, legend.unit)}: the lowest value, which is not “no data”`)
        : key(legend.palette[0], `below the threshold of ${amount(threshold)}`),
      show === "two" && key(legend.palette[PRESENT], `at the threshold of ${amount(threshold)} or above`),
      h("li", {}, h("span", { class: "swatch nodata" }), sentence(legend.nodata)),
    ),
  );
}

/**
 * @param {import("./subject.js").Legend} legend
 * @param {import("./subject.js").Band} band
 * @param {Uint8Array} entries
 * @param {string} name
 * @param {string} opacity Per cent.
 */
function bar(legend, band, entries, name, opacity) {
  const canvas = h("canvas", {
    width: entries.length, height: 1, role: "img",
    "aria-label": `Colours of ${name}, from ${amount(band.low, legend.unit)} to ${amount(band.high, legend.unit)}`,
  });
  const pen = canvas.getContext("2d");
  entries.forEach((entry, level) => {
    pen.fillStyle = legend.palette[entry];
    pen.fillRect(level, 0, 1, 1);
  });
  canvas.style.opacity = String(Number(opacity) / 100);
  const ticks = legend.stops.map(({ value }) => h("span", {}, amount(value)));
  return h("div", { class: "bar" }, h("div", { class: "colours" }, canvas), h("div", { class: "ticks", "aria-hidden": "true" }, ticks));
}

/** @param {string} color @param {string} text */
function key(color, text) {
  const swatch = h("span", { class: "swatch" });
  swatch.style.backgroundColor = color;
  return h("li", {}, swatch, text);
}

/**
 * Fill a box with the names of a species.
 * @param {HTMLElement} box
 * @param {import("./subject.js").Subject} subject
 */
export function drawAbout(box, subject) {
  const { info } = subject;
  if (!info) return;
  const also = info.synonyms.length ? h("p", { class: "muted" }, "Also known as ", italics(info.synonyms), ".") : null;
  box.replaceChildren(
    h("h2", { class: "species" }, speciesName(info)),
    also ?? "",
  );
}

/**
 * Fill a box with what the number means and how sure it is.
 * @param {HTMLElement} box
 * @param {import("./subject.js").Subject} subject
 */
export function drawReading(box, subject) {
  const { info, legend } = subject;
  if (!info || !legend) return;
  box.replaceChildren(scores(info) ?? "", h("p", { class: "muted" }, legend.explanation || info.explanation));
}

/** @param {string[]} names */
function italics(names) {
  return names.flatMap((name, at) => [at ? ", " : "", h("i", { lang: "la" }, name)]);
}

/** @param {import("./subject.js").Info} info */
function scores(info) {
  const auc = info.scores.auc;
  if (!auc || auc.value === null) return null;
  const tested = info.n_test === null ? "" : `, on ${info.n_test < FEW ? "only " : ""}${count(info.n_test)} records held out`;
  return h(
    "p",
    { class: "score" },
    h("strong", {}, `AUC ${score(auc.value)}`),
    `, coordinates alone ${score(auc.null)}${tested}. ${verdict(auc.value, auc.null)}`,
  );
}

/**
 * What an AUC is worth beside that of the null model.
 * @param {number} auc
 * @param {number | null | undefined} nothing
 */
function verdict(auc, nothing) {
  if (nothing === null || nothing === undefined) return "";
  const gain = auc - nothing;
  const words = gain <= 0 ? "no better" : gain < HARDLY ? "hardly better" : "better";
  return `The map does ${words} than knowing only where a place lies.`;
}

/**
 * Fill a box with every score, the data behind the map, and its licence.
 * @param {HTMLElement} box
 * @param {import("./subject.js").Subject} subject
 */
export function drawSources(box, subject) {
  const { info } = subject;
  if (!info) return;
  const rows = Object.entries(info.scores).filter(([, pair]) => pair.value !== null);
  const table = h(
    "table",
    {},
    h("caption", {}, "Scores in cross-validation, beside a model that knows only the coordinates"),
    h("thead", {}, h("tr", {}, ["Score", "This map", "Coordinates"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map(([name, pair]) =>
      h("tr", {}, h("th", { scope: "row" }, scoreName(name)), h("td", {}, score(pair.value)), h("td", {}, score(pair.null))))),
  );
  const facts = {
    Records: count(info.records), "Held out for tests": count(info.n_test), Grid: info.grid, CRS: shortCrs(info.crs),
    Group: info.group, Version: info.version, ...credits(info.credit),
  };
  const list = Object.entries(facts).filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
  box.replaceChildren(rows.length ? table : "", h("dl", {}, list.flat()));
}

/** @param {string} name */
function scoreName(name) {
  return name in SCORES ? SCORES[/** @type {keyof typeof SCORES} */ (name)] : name;
}

/** @param {string} crs */
function shortCrs(crs) {
  return crs.length < 30 ? crs : crs.match(/"([^"]+)"/)?.[1] ?? "";
}

/** @param {Record<string, string>} credit */
function credits(credit) {
  return Object.fromEntries(
    Object.entries(credit).map(([name, value]) => [sentence(name.replaceAll("_", " ")), String(value)]),
  );
}
