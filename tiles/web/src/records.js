/** The records of a species as points; where they crowd, one circle with their number stands for them. */

import * as L from "leaflet";
import { ask } from "./api.js";
import { h } from "./dom.js";
import { count } from "./words.js";

const MOST = 5000; // points asked for
const CELL = 56; // pixels within which points are one circle

export class Records {
  /** @type {[number, number, number][]} lon, lat, number of records at the place */
  #points = [];
  #of = "";

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
    this.group = L.layerGroup().addTo(map);
    this.check = h("input", { type: "checkbox", id: "records", onchange: () => store.set({ records: this.check.checked ? "on" : "" }, true) });
    this.note = h("p", { class: "muted", role: "status" });
    box.append(h("label", { class: "choice" }, this.check, "Records of the species"), this.note);
    map.on("moveend", () => this.#draw());
    subject.addEventListener("change", () => this.#load());
    store.watch(["records"], () => this.#load());
  }

  async #load() {
    const on = this.store.state.records === "on";
    this.check.checked = on;
    if (!on || !this.subject.info) {
      this.note.textContent = "";
      this.#points = [];
      this.#of = "";
      this.#draw();
      return;
    }
    const of = `${this.subject.info.id} ${this.subject.info.version}`;
    if (of === this.#of) return;
    try {
      const query = { ...this.subject.query, limit: MOST };
      const answer = await ask(this.subject.path("records"), query, { slot: "records" });
      this.#of = of;
      this.#points = answer.features.map((/** @type {any} */ each) => [
        each.geometry.coordinates[0], each.geometry.coordinates[1], each.properties?.records ?? 1,
      ]);
      this.note.textContent = noteOf(answer);
      this.#draw();
    } catch (error) {
      this.#points = [];
      this.#draw();
      this.fail(error, () => this.#load());
    }
  }

  #draw() {
    this.group.clearLayers();
    const zoom = this.map.getZoom();
    const bounds = this.map.getBounds().pad(0.1);
    /** @type {Map<string, {lat: number, lng: number, n: number}>} */
    const cells = new Map();
    for (const [lng, lat, n] of this.#points) {
      if (!bounds.contains([lat, lng])) continue;
      const { x, y } = this.map.project([lat, lng], zoom);
      const key = `${Math.floor(x / CELL)} ${Math.floor(y / CELL)}`;
      const cell = cells.get(key) ?? { lat: 0, lng: 0, n: 0 };
      cells.set(key, { lat: cell.lat + n * lat, lng: cell.lng + n * lng, n: cell.n + n });
    }
    for (const { lat, lng, n } of cells.values()) this.group.addLayer(this.#symbol([lat / n, lng / n], n));
  }

  /** @param {[number, number]} at @param {number} n */
  #symbol(at, n) {
    if (n === 1) return L.circleMarker(at, { radius: 4, weight: 1.5, className: "record", interactive: false });
    const size = 22 + 4 * Math.log2(n);
    const text = `${count(n)} records`;
    const icon = L.divIcon({ className: "cluster", iconSize: [size, size], html: h("span", {}, count(n)) });
    const marker = L.marker(at, { icon, title: text });
    marker.on("add", () => marker.getElement()?.setAttribute("aria-label", text));
    const closer = () => {
      this.map.getContainer().focus(); // the circle is about to go
      this.map.setView(at, this.map.getZoom() + 2);
    };
    marker.on("click", closer);
    marker.on("keydown", (/** @type {any} */ event) => event.originalEvent.key === "Enter" && closer());
    return marker;
  }
}

/** @param {any} answer Of /records. */
function noteOf(answer) {
  if (!answer.public) return answer.reason ?? "The records of this species are not public here.";
  const some = answer.returned < answer.matched ? `, of which ${count(answer.returned)} are drawn` : "";
  const withheld = answer.withheld ? ` ${count(answer.withheld)} are withheld to protect the places.` : "";
  return `${count(answer.total - answer.withheld)} records${some}.${withheld}`;
}
