/** The value at a place, by click or at the map's centre, and what lives there. */

import * as L from "leaflet";
import { ask } from "./api.js";
import { h, plainName, speciesName } from "./dom.js";
import { SHORT } from "./threshold.js";
import { say } from "./toast.js";
import { amount, place, score } from "./words.js";

const LIMIT = 10;

export class QueryPanel {
  /** @type {any} */
  #ring = null;

  /**
   * @param {HTMLElement} box
   * @param {any} map
   * @param {import("./subject.js").Subject} subject
   * @param {import("./state.js").Store} store
   * @param {(error: unknown, retry?: () => void) => void} fail
   */
  constructor(box, map, subject, store, fail) {
    this.map = map;
    this.subject = subject;
    this.store = store;
    this.fail = fail;
    this.here = h("div", { id: "here" });
    this.lives = h("div", { id: "lives" });
    box.append(
      h("button", { type: "button", class: "wide", onclick: () => this.centre() }, "Ask at the map’s centre"),
      h("p", { class: "muted" }, "Or click on the map; with the keyboard: focus the map, move with the arrows, press Enter."),
      this.here, this.lives,
    );
    subject.addEventListener("change", () => this.#ask());
    store.watch(["place"], () => this.#ask());
  }

  /** Query the place at the centre of the map. */
  centre() {
    this.at(this.map.getCenter());
  }

  /** @param {{lat: number, lng: number}} point */
  at(point) {
    const { lat, lng } = L.latLng(point.lat, point.lng).wrap();
    this.store.set({ place: `${lat.toFixed(4)},${lng.toFixed(4)}` });
  }

  async #ask() {
    this.#ring?.remove();
    const [lat, lon] = this.store.state.place.split(",").map(Number);
    if (!this.store.state.place || !this.subject.info) {
      this.here.replaceChildren();
      this.lives.replaceChildren();
      return;
    }
    this.#ring = L.circleMarker([lat, lon], { radius: 9, weight: 3, className: "ring", fill: false, interactive: false });
    this.#ring.addTo(this.map);
    const { subject } = this;
    const where = `${lon},${lat}`;
    const grid = subject.known.grid;
    try {
      const [answer, at] = await Promise.all([
        ask(subject.path(`point/${where}`), subject.query, { slot: "point" }),
        ask(`at/${where}`, { grid, group: this.store.state.group, limit: LIMIT }, { slot: "at" }),
      ]);
      this.#tell(answer);
      this.#list(at.species);
    } catch (error) {
      this.fail(error, () => this.#ask());
    }
  }

  /** @param {any} answer Of /point. */
  #tell(answer) {
    const { info } = this.subject;
    if (!info) return;
    const main = info.layers[0];
    const nothing = answer.value === null;
    const verdicts = Object.entries(answer.thresholds ?? {}).filter(([, each]) => /** @type {any} */ (each).above !== null);
    const usual = answer.thresholds?.[info.default_threshold ?? ""];
    const judged = usual && usual.above !== null
      ? `, ${usual.above ? "above" : "below"} the threshold ${SHORT[info.default_threshold ?? ""] ?? ""}`
      : "";
    const head = nothing
      ? `No data here (${place(answer.lon, answer.lat)}): the map does not reach this place.`
      : `${plainName(info)}: ${main.name} ${amount(answer.value, main.unit)} at ${place(answer.lon, answer.lat)}${judged}.`;
    say(head);
    this.here.replaceChildren(
      h("p", { class: "answer", dataset: { value: nothing ? "" : String(answer.value) } },
        h("strong", {}, nothing ? "No data" : score(answer.value)), " ",
        nothing ? "The map does not reach this place. That is not the same as zero." : main.name,
        h("br"), h("span", { class: "muted" }, place(answer.lon, answer.lat))),
      nothing ? "" : h("ul", { class: "verdicts" }, verdicts.map(([key, each]) => verdict(info, key, each))),
      this.#layers(answer), nearest(answer.records ?? []),
    );
  }

  /** @param {any} answer */
  #layers(answer) {
    const further = (answer.layers ?? []).filter((/** @type {any} */ each) => each.name !== this.subject.info?.layers[0].name);
    return further.length
      ? h("dl", {}, further.flatMap((/** @type {any} */ each) => [h("dt", {}, each.name), h("dd", {}, amount(each.value, each.unit))]))
      : "";
  }

  /** @param {any[]} species */
  #list(species) {
    const known = species.filter((each) => each.value !== null);
    this.lives.replaceChildren(
      h("h3", {}, "What lives here"),
      known.some((each) => each.above) ? h("p", { class: "muted" }, "✓ is above its own threshold. Most probable first; suitabilities, which cannot be compared, by how far they are above it.") : "",
      known.length
        ? h("ol", { class: "lives" }, known.map((each) => this.#entry(each)))
        : h("p", { class: "muted" }, "No species has data at this place."),
    );
  }

  /** @param {any} each */
  #entry(each) {
    const choose = () => this.store.set({ species: each.id, layer: "", threshold: "" }, true);
    const said = each.above === null ? "" : each.above ? ", above its threshold" : ", below its threshold";
    return h("li", {}, h("button", { type: "button", onclick: choose }, speciesName(each),
      h("span", { class: each.above ? "value above" : "value" }, score(each.value), h("span", { class: "unseen" }, said))));
  }
}

/** @param {import("./subject.js").Info} info @param {string} key @param {any} each */
function verdict(info, key, each) {
  const label = SHORT[key] ?? info.thresholds[key]?.label ?? key;
  return h("li", { class: each.above ? "above" : "below" }, `${each.above ? "Above" : "Below"} ${label} (${score(each.value)})`);
}

/** @param {any[]} records */
function nearest(records) {
  if (!records.length) return "";
  const text = records.slice(0, 3).map((each) => `${amount(each.distance_km)} km`).join(", ");
  return h("p", {}, `Nearest records: ${text} away.`);
}
