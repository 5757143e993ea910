/** A species on the map: what the server knows of it and the legend of the layer shown. */

import { address, ask } from "./api.js";
import { buildLut, cutLevel } from "./lut.js";

/**
 * @typedef {object} Band
 * @property {string} name
 * @property {string} description
 * @property {string} unit
 * @property {number} low
 * @property {number} high
 * @property {number | null} month
 *
 * @typedef {object} Info The answer of /species/ID/info.
 * @property {string} id
 * @property {string} scientificName
 * @property {string} vernacularName
 * @property {string[]} synonyms
 * @property {string} group
 * @property {string[]} groups
 * @property {string} grid
 * @property {string[]} grids
 * @property {string} meaning
 * @property {string} unit
 * @property {string} explanation
 * @property {number | null} records
 * @property {number | null} n_test
 * @property {string} version
 * @property {number[]} bbox
 * @property {string} crs
 * @property {number} resolution
 * @property {Record<string, {value: number, omission: number | null, area_km2: number | null, label: string, explanation: string}>} thresholds
 * @property {string | null} default_threshold
 * @property {Record<string, {value: number | null, null: number | null}>} scores
 * @property {Band[]} layers
 * @property {Record<string, string>} credit
 *
 * @typedef {object} Legend The answer of /species/ID/legend.json.
 * @property {string} title
 * @property {string} unit
 * @property {string} explanation
 * @property {{value: number, color: string}[]} stops
 * @property {string} nodata
 * @property {string[]} palette
 *
 * @typedef {{species: string, group: string, grid: string, layer: string, colormap: string}} Wanted
 */

export class Subject extends EventTarget {
  /** @type {Info | null} */
  info = null;
  /** @type {Legend | null} */
  legend = null;
  /** @type {Band | null} */
  band = null;

  /** @param {string} slot Name of this subject's requests. */
  constructor(slot) {
    super();
    this.slot = slot;
  }

  /**
   * Load a species; those who listen to "change" are told when all of it is here.
   * @param {Wanted} wanted
   * @throws {import("./api.js").ApiError}
   */
  async load(wanted) {
    const { species, group, grid, colormap } = wanted;
    const known = this.info;
    const same = known && known.id === species && (!grid || known.grid === grid) && (!group || known.group === group);
    const info = same ? known : await ask(`species/${species}/info`, { group, grid }, { slot: `${this.slot} info` });
    /** @type {Band} */
    const band = info.layers.find((/** @type {Band} */ each) => each.name === wanted.layer) ?? info.layers[0];
    const query = { group: info.group, grid: info.grid, layer: layerName(info, band), colormap };
    const legend = await ask(`species/${species}/legend.json`, query, { slot: `${this.slot} legend` });
    Object.assign(this, { info, band, legend });
    this.dispatchEvent(new Event("change"));
  }

  /** Nothing is shown any more. */
  clear() {
    Object.assign(this, { info: null, band: null, legend: null });
    this.dispatchEvent(new Event("change"));
  }

  /** Forget what was loaded, so that the next `load` asks again. */
  stale() {
    this.info = null;
  }

  /** Names of this very map in a query. */
  get query() {
    const info = this.known;
    return { group: info.group, grid: info.grid };
  }

  /** The info, where the caller knows that it is loaded. */
  get known() {
    if (!this.info || !this.band || !this.legend) throw new Error("no species is loaded");
    return this.info;
  }

  /** @param {string} path Below the species: "point/…", "stats". */
  path(path) {
    return `species/${this.known.id}/${path}`;
  }

  /** Template of the value tiles of the layer shown. */
  get tiles() {
    const { info, band } = this;
    if (!info || !band) return "";
    return address(this.path("tiles/WebMercatorQuad/{z}/{x}/{y}/value"), {
      v: info.version, ...this.query, layer: layerName(info, band),
    });
  }

  /** Whether thresholds apply to the layer shown: they are those of the first. */
  get cuttable() {
    return this.info !== null && this.band === this.info.layers[0] && Object.keys(this.info.thresholds).length > 0;
  }

  /**
   * The value of a threshold.
   * @param {string} threshold A key (p10), a value (0.31), or "" for the default.
   */
  threshold(threshold) {
    const { thresholds, default_threshold: usual } = this.known;
    const given = Number.parseFloat(threshold);
    if (!Number.isNaN(given)) return given;
    const chosen = thresholds[threshold] ?? thresholds[usual ?? ""] ?? Object.values(thresholds)[0];
    return chosen ? chosen.value : 0;
  }

  /**
   * Colours of the layer shown.
   * @param {{show: string, threshold: string}} state
   */
  lut(state) {
    if (!this.legend || !this.band) return new Uint32Array(256);
    const show = this.cuttable ? state.show : "all";
    return buildLut(this.legend.palette, show, cutLevel(this.threshold(state.threshold), this.band));
  }
}

/**
 * The name of a layer in a query; the first one needs none.
 * @param {Info} info
 * @param {Band} band
 */
function layerName(info, band) {
  return band === info.layers[0] ? "" : band.name;
}
