/** The map itself: its view, kept in the address, and the layer of the first species. */

import * as L from "leaflet";
import { ApiError } from "./api.js";
import { ValueLayer, deepestZoom } from "./valuelayer.js";

const WORLD = L.latLngBounds([-85.06, -180], [85.06, 180]);
const SPARE = 0.08; // share of a grid that may lie beyond each edge, if it is then seen at twice the size
const FIRST_VIEW = /** @type {const} */ ([37.2, -119.5]); // until the first species says where it lies

/**
 * @param {HTMLElement} element
 * @returns {any}
 */
export function createMap(element) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const map = L.map(element, {
    zoomControl: false, minZoom: 1, maxZoom: 14, maxBounds: WORLD.pad(0.5), worldCopyJump: false,
    zoomAnimation: !calm, fadeAnimation: !calm, markerZoomAnimation: !calm, inertia: !calm, keyboardPanDelta: 40,
  });
  // Leaflet slides at each arrow key, whatever its options say.
  if (calm) map.panBy = (/** @type {any} */ offset) => L.Map.prototype.panBy.call(map, offset, { animate: false });
  map.setView(FIRST_VIEW, 5);
  map.createPane("first").style.zIndex = "250";
  map.attributionControl.setPrefix("Leaflet");
  L.control.zoom({ position: "topright" }).addTo(map);
  L.control.scale({ position: "bottomleft", imperial: false }).addTo(map);
  element.setAttribute("role", "application");
  element.setAttribute("aria-roledescription", "map");
  new ResizeObserver(() => map.invalidateSize({ animate: false, pan: false })).observe(element);
  return map;
}

/**
 * Keep the view in the address, and the map where the address says; fit it to a grid that is new.
 * @param {any} map
 * @param {import("./state.js").Store} store
 * @param {import("./subject.js").Subject} subject
 */
export function keepView(map, store, subject) {
  let settled = false; // nothing is written until the first view stands
  let grid = "";
  const go = () => {
    const [zoom, lat, lng] = store.state.map.split("/").map(Number);
    if (store.state.map && store.state.map !== viewOf(map)) map.setView([lat, lng], zoom, { animate: false });
  };
  go();
  settled = store.state.map !== "";
  map.on("moveend", () => settled && store.set({ map: viewOf(map) }));
  store.watch(["map"], go);
  subject.addEventListener("change", () => {
    const { info } = subject;
    if (!info || info.grid === grid) return;
    const fits = grid !== "" || !settled;
    grid = info.grid;
    settled = true;
    if (fits) map.fitBounds(inhabited(info.bbox).pad(-SPARE), { animate: false });
  });
}

/** @param {any} map */
function viewOf(map) {
  const { lat, lng } = map.getCenter();
  return `${map.getZoom()}/${lat.toFixed(4)}/${lng.toFixed(4)}`;
}

/** @param {number[]} bbox West, south, east, north; west > east across the antimeridian. */
export function boundsOf([west, south, east, north]) {
  if (west > east) return L.latLngBounds([south, -180], [north, 180]);
  return L.latLngBounds([south, west], [north, east]);
}

/**
 * What a first view shows of a grid: Mercator would give most of the screen to the ice around the poles.
 * @param {number[]} bbox
 */
function inhabited([west, south, east, north]) {
  return boundsOf([west, Math.max(south, -58), east, Math.min(north, 76)]);
}

/** The tiles of the first species. */
export class SpeciesLayer {
  /** @type {any} */
  #layer = null;
  #template = "";

  /**
   * @param {any} map
   * @param {import("./subject.js").Subject} subject
   * @param {import("./state.js").Store} store
   * @param {{fail: (error: unknown, retry?: () => void) => void, stale: () => void}} told
   */
  constructor(map, subject, store, told) {
    this.map = map;
    this.subject = subject;
    this.store = store;
    this.told = told;
    store.watch(["show", "threshold"], (state) => this.#layer?.setLut(subject.lut(state)));
    store.watch(["opacity"], (state) => this.#layer?.setOpacity(Number(state.opacity) / 100));
  }

  /** Show what the subject is now; the same tiles are only painted anew. */
  renew() {
    const { subject, map } = this;
    const { state } = this.store;
    if (this.#layer && this.#template === subject.tiles) {
      this.#layer.setLut(subject.lut(state));
      map.getContainer().removeAttribute("aria-busy");
      return;
    }
    this.#layer?.remove();
    this.#template = subject.tiles;
    this.#layer = new ValueLayer(subject.tiles, subject.lut(state), {
      pane: "first", bounds: boundsOf(subject.known.bbox), opacity: Number(state.opacity) / 100, maxNativeZoom: deepestZoom(subject.known),
    });
    this.#layer.on("loading", () => map.getContainer().setAttribute("aria-busy", "true"));
    this.#layer.on("load", () => map.getContainer().removeAttribute("aria-busy"));
    this.#layer.on("failed", (/** @type {any} */ event) => this.#failed(event.error));
    this.#layer.addTo(map);
  }

  /** @param {unknown} error */
  #failed(error) {
    // Tiles carry the version of the map: gone means that there is a newer one.
    if (error instanceof ApiError && error.status === 404) this.told.stale();
    else this.told.fail(error, () => this.#layer?.redraw());
  }
}
