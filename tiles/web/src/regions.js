/** A county, state or drawn polygon, and what the map says of it, as a table and as CSV. */

import * as L from "leaflet";
import { ask } from "./api.js";
import { Combobox } from "./combobox.js";
import { h, plainName } from "./dom.js";
import { save } from "./downloads.js";
import { Drawing } from "./draw.js";
import { regions } from "./outlines.js";
import { SHORT } from "./threshold.js";
import { say } from "./toast.js";
import { amount, area, csv, percent, score } from "./words.js";

const LISTED = 60;

/** @typedef {{id: string, name: string, geometry: any}} Chosen */

export class RegionsPanel {
  /** @type {any} */
  #outline = null;
  /** @type {Chosen | null} */
  #chosen = null;

  /**
   * @param {{input: HTMLInputElement, list: HTMLElement, note: HTMLElement, tools: HTMLElement, table: HTMLElement}} places
   * @param {any} map
   * @param {import("./subject.js").Subject} subject
   * @param {import("./state.js").Store} store
   * @param {(error: unknown, retry?: () => void) => void} fail
   */
  constructor(places, map, subject, store, fail) {
    this.places = places;
    this.map = map;
    this.subject = subject;
    this.store = store;
    this.fail = fail;
    this.drawing = new Drawing(map, (corners) => this.#drawn(corners));
    this.box = new Combobox(places.input, places.list, places.note, {
      find: (text) => search(text),
      show: (region) => h("span", {}, region.name, " ", h("small", {}, region.within)),
      label: (region) => region.name,
      choose: (region) => store.set({ region: region.id }, true),
      fail,
    });
    this.#tools();
    subject.addEventListener("change", () => this.#summarise());
    store.watch(["region"], () => this.#choose());
    if (store.state.region) this.#choose(false);
  }

  #tools() {
    const corners = h("textarea", { id: "corners", rows: "3", placeholder: "-122.5, 37.2\n-121.5, 37.2\n-121.5, 38.0" });
    const take = () => {
      const found = cornersIn(corners.value);
      if (found.length < 3) say("A polygon needs three corners or more: longitude, latitude, one a line.");
      else this.#drawn(found);
    };
    this.draw = h("button", { type: "button", onclick: () => this.#toggleDrawing() }, "Draw a polygon");
    this.finish = h("button", { type: "button", hidden: true, class: "primary", onclick: () => this.drawing.finish() }, "Finish the polygon");
    this.clear = h("button", { type: "button", hidden: true, onclick: () => this.store.set({ region: "" }, true) }, "Clear");
    this.places.tools.append(
      h("div", { class: "row" }, this.draw, this.finish, this.clear),
      h("details", { class: "inner" }, h("summary", {}, "Or type its corners"),
        h("label", { for: "corners" }, "Longitude, latitude in degrees, one corner a line"), corners,
        h("button", { type: "button", onclick: take }, "Take these corners")),
    );
  }

  #toggleDrawing() {
    if (this.drawing.active) this.drawing.cancel();
    else this.drawing.start();
    this.#label();
  }

  #label() {
    this.draw.textContent = this.drawing.active ? "Stop drawing" : "Draw a polygon";
    this.finish.hidden = !this.drawing.active;
  }

  /** @param {[number, number][] | null} corners */
  #drawn(corners) {
    this.#label();
    if (corners) this.store.set({ region: `poly:${corners.map((corner) => corner.join(",")).join(";")}` }, true);
  }

  /** Show the region of the state. @param {boolean} [move] Whether the map should move to it. */
  async #choose(move = true) {
    const { region } = this.store.state;
    this.#outline?.remove();
    this.#outline = null;
    this.#chosen = null;
    this.clear.hidden = !region;
    this.box.label = "";
    this.places.table.replaceChildren();
    if (!region) return;
    try {
      this.#chosen = region.startsWith("poly:") ? polygon(region) : (await regions()).find((each) => each.id === region) ?? null;
    } catch (error) {
      this.fail(error, () => this.#choose(move));
      return;
    }
    if (!this.#chosen) {
      this.fail(new Error(`There is no region ${region}. Choose one from the list.`));
      return;
    }
    this.box.label = region.startsWith("poly:") ? "" : this.#chosen.name;
    this.#outline = L.geoJSON(this.#chosen.geometry, { interactive: false, style: { className: "region", weight: 2.5, fill: false } });
    this.#outline.addTo(this.map);
    if (move) this.map.fitBounds(this.#outline.getBounds(), { maxZoom: 9, padding: [24, 24] });
    this.#summarise();
  }

  async #summarise() {
    const { subject } = this;
    const region = this.#chosen;
    if (!region || !subject.info) return;
    this.places.table.replaceChildren(h("p", { class: "muted", role: "status" }, `Adding up ${region.name}…`));
    try {
      const answer = await ask(subject.path("summary"), subject.query, { slot: "summary", body: region.geometry });
      this.#tell(region, answer);
    } catch (error) {
      this.places.table.replaceChildren();
      this.fail(error, () => this.#summarise());
    }
  }

  /** @param {Chosen} region @param {any} answer Of /summary. */
  #tell(region, answer) {
    const info = this.subject.known;
    const name = plainName(info);
    /** @type {[string, string][]} */
    const rows = [
      ["Area with data", area(answer.area_km2)], ["Area without data", area(answer.nodata_km2)],
      ["Mean", amount(answer.mean)], ["Lowest and highest", `${amount(answer.min)} to ${amount(answer.max)}`],
      .../** @type {[string, any][]} */ (Object.entries(answer.above ?? {})).map(([key, each]) =>
        /** @type {[string, string]} */ ([`Above ${SHORT[key] ?? key} (${score(each.value)})`, `${area(each.area_km2)}, ${percent(each.share)}`])),
    ];
    const table = h("table", {},
      h("caption", {}, `${name} in ${region.name}`),
      h("tbody", {}, rows.map(([label, value]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, value)))));
    const download = h("button", { type: "button", onclick: () => save(`${info.id}-${slug(region.name)}.csv`, csv(table2(info, region, answer)), "text/csv") }, "Table as CSV");
    this.places.table.replaceChildren(table, download);
    say(`${name} in ${region.name}: mean ${amount(answer.mean)}.`);
  }
}

/** @param {string} name */
function slug(name) {
  return name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
}

/** @param {import("./subject.js").Info} info @param {Chosen} region @param {any} answer */
function table2(info, region, answer) {
  const head = ["species", "grid", "group", "version", "region", "measure", "threshold", "value", "unit"];
  const start = [info.scientificName, info.grid, info.group, info.version, region.name];
  return [
    head,
    [...start, "area with data", "", answer.area_km2, "km2"],
    [...start, "area without data", "", answer.nodata_km2, "km2"],
    .../** @type {const} */ (["mean", "min", "max"]).map((name) => [...start, name, "", answer[name], info.layers[0].unit]),
    ...Object.entries(answer.above ?? {}).map(([key, each]) =>
      [...start, `area above ${key}`, /** @type {any} */ (each).value, /** @type {any} */ (each).area_km2, "km2"]),
  ];
}

/** @param {string} text */
async function search(text) {
  const wanted = text.toLowerCase();
  const all = await regions();
  const starts = all.filter((each) => each.name.toLowerCase().startsWith(wanted));
  const holds = all.filter((each) => !starts.includes(each) && `${each.name} ${each.within}`.toLowerCase().includes(wanted));
  return [...starts, ...holds].slice(0, LISTED);
}

/** @param {string} text One "lon, lat" a line. @returns {[number, number][]} */
function cornersIn(text) {
  return text.split("\n").map((line) => line.split(/[,;\s]+/).filter(Boolean).map(Number))
    .filter((pair) => pair.length === 2 && pair.every(Number.isFinite) && Math.abs(pair[0]) <= 180 && Math.abs(pair[1]) <= 90)
    .map(([lon, lat]) => [lon, lat]);
}

/** @param {string} region "poly:lon,lat;…" @returns {Chosen} */
function polygon(region) {
  const ring = region.slice(5).split(";").map((corner) => corner.split(",").map(Number));
  return { id: region, name: "the drawn polygon", geometry: { type: "Polygon", coordinates: [[...ring, ring[0]]] } };
}
