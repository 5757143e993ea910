/** What lies under the map: outlines that come with the page, or online tiles where the server names some. */

import * as L from "leaflet";
import { unitedStates, world } from "./outlines.js";

const STATES_FROM = 4; // zoom
const COUNTIES_FROM = 7;
const THIN_BELOW = 3;
const CREDIT = "Outlines: Natural Earth, US Census Bureau";

/** Online tiles that the server was set up with, or null. @returns {{template: string, credit: string} | null} */
export function onlineTiles() {
  const said = /** @type {HTMLMetaElement | null} */ (document.querySelector('meta[name="geomap:basemap"]'));
  if (!said?.content) return null;
  return { template: said.content, credit: said.dataset.credit ?? "" };
}

export class Basemap {
  /** @type {any} */
  #online = null;
  /** @type {Record<string, any>} */
  #drawn = {};

  /**
   * @param {any} map
   * @param {import("./state.js").Store} store
   * @param {(error: unknown, retry?: () => void) => void} fail
   */
  constructor(map, store, fail) {
    this.map = map;
    this.store = store;
    this.fail = fail;
    for (const [name, depth] of Object.entries({ online: 140, land: 150, lines: 420 })) {
      map.createPane(name).style.zIndex = String(depth);
      map.getPane(name).style.pointerEvents = "none";
    }
    map.attributionControl.addAttribution(CREDIT);
    map.on("zoomend", () => this.#arrange());
    store.watch(["basemap"], () => this.#arrange());
    this.load();
  }

  async load() {
    try {
      const [land, countries] = await world();
      this.#drawn.land = this.#polygons(land);
      this.#drawn.countries = this.#lines(countries, "countries");
      this.#arrange();
      const [states, borders, counties] = await unitedStates();
      this.#drawn.states = this.#polygons(states);
      this.#drawn.borders = this.#lines(borders, "borders");
      this.#drawn.counties = this.#lines(counties, "counties");
      this.#arrange();
      this.restyle();
    } catch (error) {
      this.fail(error, () => this.load());
    }
  }

  /** Take the colours of the theme, which stand in the style sheet. */
  restyle() {
    const style = getComputedStyle(document.documentElement);
    const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    const land = { fillColor: colour("--land"), color: colour("--land") };
    this.#drawn.land?.setStyle(land);
    this.#drawn.states?.setStyle(land);
    this.#drawn.countries?.setStyle({ color: colour("--border") });
    this.#drawn.borders?.setStyle({ color: colour("--border") });
    this.#drawn.counties?.setStyle({ color: colour("--county") });
  }

  /** @param {any} shape */
  #polygons(shape) {
    const options = { renderer: L.canvas({ pane: "land", padding: 0.4 }), pane: "land", interactive: false };
    // A thin stroke of the same colour closes the gaps between the two sources of outlines.
    return L.geoJSON(shape, { ...options, style: { weight: 1, fillOpacity: 1, opacity: 1 } });
  }

  /** @param {any} shape @param {string} kind */
  #lines(shape, kind) {
    const weight = { countries: 1.2, borders: 1, counties: 0.7 }[kind];
    const options = { renderer: L.canvas({ pane: "lines", padding: 0.4 }), pane: "lines", interactive: false };
    return L.geoJSON(shape, { ...options, style: { weight, fill: false, opacity: 0.75 } });
  }

  /** Put on the map what belongs there at this zoom and by this choice. */
  #arrange() {
    const tiles = onlineTiles();
    const online = tiles !== null && this.store.state.basemap === "online";
    if (online && !this.#online) {
      this.#online = L.tileLayer(tiles.template, { pane: "online", attribution: tiles.credit, maxZoom: 18 });
      this.#online.on("tileerror", () => this.fail(new Error("The online basemap does not answer."), () => this.#online.redraw()));
    }
    const zoom = this.map.getZoom();
    if (this.#online) this.#toggle(this.#online, online);
    this.#toggle(this.#drawn.land, !online);
    this.#toggle(this.#drawn.states, !online);
    this.#drawn.countries?.setStyle({ weight: zoom < THIN_BELOW ? 0.6 : 1.2 });
    this.#toggle(this.#drawn.countries, true);
    this.#toggle(this.#drawn.borders, zoom >= STATES_FROM);
    this.#toggle(this.#drawn.counties, zoom >= COUNTIES_FROM);
    this.restyle();
  }

  /** @param {any} layer @param {boolean} wanted */
  #toggle(layer, wanted) {
    if (!layer || this.map.hasLayer(layer) === wanted) return;
    if (wanted) layer.addTo(this.map);
    else layer.remove();
  }
}
