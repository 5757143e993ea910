/** A second species: beside the first with a divider between, or both as three colours. */

import * as L from "leaflet";
import { address, ask } from "./api.js";
import { h, speciesName } from "./dom.js";
import { drawLegend } from "./legend.js";
import { boundsOf } from "./map.js";
import { ValueLayer, deepestZoom } from "./valuelayer.js";

const STEP = 2; // per cent of the width for each press of an arrow

export class Compare {
  /** @type {any} */
  #layer = null;

  /**
   * @param {{box: HTMLElement, divider: HTMLElement, keys: HTMLElement}} places
   * @param {any} map
   * @param {import("./subject.js").Subject} first
   * @param {import("./subject.js").Subject} second
   * @param {import("./state.js").Store} store
   * @param {(error: unknown, retry?: () => void) => void} fail
   */
  constructor(places, map, first, second, store, fail) {
    this.places = places;
    this.map = map;
    this.first = first;
    this.second = second;
    this.store = store;
    this.fail = fail;
    map.createPane("second").style.zIndex = "260";
    this.how = h("fieldset", { class: "segments", hidden: true }, h("legend", { class: "unseen" }, "Show the two species"),
      choice("swipe", "Side by side", store), choice("both", "As three colours", store));
    this.end = h("button", { type: "button", hidden: true, onclick: () => store.set({ compare: "" }, true) }, "End the comparison");
    places.box.append(this.how, this.end);
    map.on("move resize zoomend viewreset", () => this.#clip());
    first.addEventListener("change", () => this.renew());
    second.addEventListener("change", () => this.renew());
    store.watch(["how"], () => this.renew());
    store.watch(["split"], () => this.#clip());
    store.watch(["opacity"], (state) => this.#layer?.setOpacity(Number(state.opacity) / 100));
    store.watch(["show", "threshold"], () => this.recolour());
    this.#divider(places.divider);
  }

  /** Whether two species lie side by side. */
  get swiping() {
    return this.store.state.how === "swipe" && this.second.info !== null;
  }

  /** Draw the second species anew. */
  async renew() {
    this.#layer?.remove();
    this.#layer = null;
    const { state } = this.store;
    const on = this.second.info !== null && this.first.info !== null;
    this.how.hidden = !on;
    this.end.hidden = !on;
    this.places.divider.hidden = !this.swiping;
    for (const input of this.how.querySelectorAll("input")) input.checked = input.value === state.how;
    this.places.keys.replaceChildren();
    this.places.divider.replaceChildren(
      ...[this.first, this.second].map(({ info }, at) =>
        h("span", { class: at ? "side right" : "side left" }, info ? speciesName(info) : "")));
    if (on && this.swiping) this.#side();
    else if (on) await this.#three();
    this.#clip();
  }

  /** The second species' own colours and threshold. */
  recolour() {
    if (!this.swiping) return;
    this.#layer?.setLut(this.second.lut(this.#state));
    this.#legend();
  }

  /** Thresholds belong to a species: a value set for the first is no value for the second, a kind of threshold is. */
  get #state() {
    const { state } = this.store;
    return { ...state, threshold: Number.isNaN(Number.parseFloat(state.threshold)) ? state.threshold : "" };
  }

  #side() {
    const info = this.second.known;
    this.#layer = new ValueLayer(this.second.tiles, this.second.lut(this.#state), {
      pane: "second", bounds: boundsOf(info.bbox), opacity: Number(this.store.state.opacity) / 100, maxNativeZoom: deepestZoom(info),
      className: "values second",
    });
    this.#layer.on("failed", (/** @type {any} */ event) => this.fail(event.error, () => this.renew()));
    this.#layer.addTo(this.map);
    this.#legend();
  }

  #legend() {
    const box = h("div", { class: "legend" });
    drawLegend(box, this.second, this.#state);
    this.places.keys.replaceChildren(
      h("h3", {}, "Right: ", this.second.info ? speciesName(this.second.info) : ""), box);
  }

  async #three() {
    const pair = `compare/${this.first.known.id}/${this.second.known.id}`;
    const grid = this.second.known.grid;
    let legend;
    try {
      legend = await ask(`${pair}/legend.json`, { grid }, { slot: "three" });
    } catch (error) {
      this.fail(error, () => this.renew());
      return;
    }
    const url = address(`${pair}/tiles/WebMercatorQuad/{z}/{x}/{y}.png`, { grid, v: legend.version });
    this.#layer = L.tileLayer(url, {
      pane: "second", noWrap: true, bounds: boundsOf(this.first.known.bbox), opacity: Number(this.store.state.opacity) / 100,
      maxNativeZoom: deepestZoom(this.first.known), className: "three", alt: "",
    });
    this.#layer.on("tileerror", () => this.fail(new Error("A tile of the comparison could not be loaded."), () => this.renew()));
    this.#layer.addTo(this.map);
    this.places.keys.replaceChildren(h("ul", { class: "keys" }, threeKeys(legend)));
  }

  /** Cut both layers at the divider. */
  #clip() {
    const at = (Number(this.store.state.split) / 100) * this.map.getSize().x;
    this.places.divider.style.left = `${at}px`;
    this.places.divider.setAttribute("aria-valuenow", this.store.state.split);
    const swiping = this.swiping && this.#layer;
    const corner = this.map.containerPointToLayerPoint([0, 0]);
    const size = this.map.getSize();
    const box = (/** @type {number} */ left, /** @type {number} */ right) => {
      const [w, e, n, s] = [corner.x + left, corner.x + right, corner.y, corner.y + size.y];
      return `polygon(${w}px ${n}px, ${e}px ${n}px, ${e}px ${s}px, ${w}px ${s}px)`;
    };
    this.map.getPane("second").style.clipPath = swiping ? box(at, size.x) : "";
    this.map.getPane("first").style.clipPath = swiping ? box(0, at) : "";
    this.map.getPane("first").style.display = this.#layer && !swiping ? "none" : "";
  }

  /** @param {HTMLElement} divider */
  #divider(divider) {
    const move = (/** @type {number} */ split) =>
      this.store.set({ split: String(Math.round(Math.min(100, Math.max(0, split)))) });
    L.DomEvent.disableClickPropagation(divider);
    divider.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      divider.focus();
      divider.setPointerCapture(event.pointerId);
    });
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return;
      const frame = this.map.getContainer().getBoundingClientRect();
      move((100 * (event.clientX - frame.left)) / frame.width);
    });
    divider.addEventListener("keydown", (event) => {
      const now = Number(this.store.state.split);
      /** @type {Record<string, number>} */
      const keys = {
        ArrowLeft: now - STEP, ArrowDown: now - STEP, ArrowRight: now + STEP, ArrowUp: now + STEP, Home: 0, End: 100,
      };
      if (!(event.key in keys)) return;
      event.preventDefault();
      event.stopPropagation();
      move(keys[event.key]);
    });
  }
}

/** @param {any} legend Of /compare. */
function threeKeys(legend) {
  return legend.classes.map((/** @type {{title: string, color: string}} */ each) => {
    const swatch = h("span", { class: "swatch" });
    swatch.style.backgroundColor = each.color;
    return h("li", {}, swatch, each.title);
  });
}

/** @param {string} how @param {string} text @param {import("./state.js").Store} store */
function choice(how, text, store) {
  return h("label", { class: "choice" },
    h("input", { type: "radio", name: "how", value: how, onchange: () => store.set({ how }) }), text);
}
