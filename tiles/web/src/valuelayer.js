/** A layer of 8-bit value tiles, painted in the browser: colours, threshold and opacity need no new tile. */

import * as L from "leaflet";
import { ApiError, answer, isAbort } from "./api.js";

const SIZE = 256;
const RETRY_MS = 1200; // one more try after an overloaded server's 503

/**
 * @typedef {object} PaintedTile
 * @property {HTMLCanvasElement} canvas
 * @property {Uint8ClampedArray | null} levels (65536,) levels, 255 nodata; null while there are none.
 * @property {AbortController} request
 */

/** Tiles are canvases; `setLut` paints all of them anew. Fires "failed" with an ApiError for a lost tile. */
export const ValueLayer = L.GridLayer.extend({
  options: { tileSize: SIZE, noWrap: true, updateWhenZooming: false, keepBuffer: 1, className: "values" },

  /**
   * @param {string} template With {z}, {x} and {y}.
   * @param {Uint32Array} lut
   * @param {object} options Of L.GridLayer.
   */
  initialize(template, lut, options) {
    L.setOptions(this, options);
    this._template = template;
    this._lut = lut;
    /** @type {Map<HTMLCanvasElement, PaintedTile>} */
    this._painted = new Map();
    this.on("tileunload", (/** @type {any} */ event) => {
      this._painted.get(event.tile)?.request.abort();
      this._painted.delete(event.tile);
    });
  },

  createTile(/** @type {any} */ coords, /** @type {(error: any, tile: any) => void} */ done) {
    const canvas = document.createElement("canvas");
    canvas.width = SIZE;
    canvas.height = SIZE;
    const tile = { canvas, levels: null, request: new AbortController() };
    this._painted.set(canvas, tile);
    this._load(tile, coords).then(
      () => done(null, canvas),
      (/** @type {unknown} */ error) => {
        if (isAbort(error)) return;
        done(error, canvas);
        this.fire("failed", { error });
      },
    );
    return canvas;
  },

  /** Paint every tile with other colours. */
  setLut(/** @type {Uint32Array} */ lut) {
    this._lut = lut;
    for (const tile of this._painted.values()) this._paint(tile);
  },

  async _load(/** @type {PaintedTile} */ tile, /** @type {any} */ coords) {
    const url = L.Util.template(this._template, coords);
    const { signal } = tile.request;
    const response = await answer(url, { signal }).catch(async (error) => {
      if (!(error instanceof ApiError) || error.status !== 503) throw error;
      await new Promise((resume) => setTimeout(resume, RETRY_MS));
      return answer(url, { signal });
    });
    tile.levels = await decode(await response.blob());
    this._paint(tile);
  },

  _paint(/** @type {PaintedTile} */ tile) {
    if (!tile.levels) return;
    const image = new ImageData(SIZE, SIZE);
    const pixels = new Uint32Array(image.data.buffer);
    const { levels } = tile;
    for (let at = 0; at < levels.length; at += 1) pixels[at] = this._lut[levels[at]];
    tile.canvas.getContext("2d")?.putImageData(image, 0, 0);
  },
});

/**
 * The levels in a grey PNG.
 * @param {Blob} file
 * @returns {Promise<Uint8ClampedArray>} (65536,)
 */
async function decode(file) {
  const picture = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const context = new OffscreenCanvas(SIZE, SIZE).getContext("2d", { willReadFrequently: true });
  if (!context) throw new ApiError("This browser cannot read tiles.", 0);
  context.drawImage(picture, 0, 0);
  picture.close();
  const { data } = context.getImageData(0, 0, SIZE, SIZE);
  const levels = new Uint8ClampedArray(SIZE * SIZE);
  for (let at = 0; at < levels.length; at += 1) levels[at] = data[4 * at];
  return levels;
}

const EQUATOR_M = 40_075_016.7;

/**
 * The deepest zoom at which the server is asked for tiles: a cell is then four pixels or more, and deeper zooms
 * only enlarge it.
 * @param {{crs: string, resolution: number, bbox: number[]}} map
 */
export function deepestZoom(map) {
  const lat = Math.min(80, Math.max(...[map.bbox[1], map.bbox[3]].map(Math.abs)));
  const metres = map.resolution <= 2 ? (map.resolution * EQUATOR_M) / 360 : map.resolution;
  const cell = metres / Math.cos((lat * Math.PI) / 180); // in Mercator metres, where cells are widest
  return Math.min(14, Math.max(2, Math.ceil(Math.log2((4 * EQUATOR_M) / (SIZE * cell)))));
}
