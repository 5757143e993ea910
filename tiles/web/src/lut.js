/** From the levels of value tiles to colours: the very palette of the legend, cut at a threshold or not. */

export const STEPS = 250; // a value v between low and high is level round(250 v)
export const CLEAR = 255; // level of nodata
export const PRESENT = 190; // level whose colour stands for "above" where two colours are shown

/**
 * The level of a value.
 * @param {number} value
 * @param {{low: number, high: number}} band
 */
export function levelOf(value, band) {
  const level = Math.round((STEPS * (value - band.low)) / (band.high - band.low));
  return Math.min(STEPS, Math.max(0, level));
}

/**
 * The lowest level that counts as above a threshold. Above zero it is never level 0, in which whatever is nearly
 * zero lies together with zero itself.
 * @param {number} threshold
 * @param {{low: number, high: number}} band
 */
export function cutLevel(threshold, band) {
  return threshold > band.low ? Math.max(1, levelOf(threshold, band)) : 0;
}

/**
 * The value of a level.
 * @param {number} level
 * @param {{low: number, high: number}} band
 */
export function valueOf(level, band) {
  return band.low + (level / STEPS) * (band.high - band.low);
}

/**
 * Which palette entry each level is drawn with.
 * @param {string} show "all" values; "cut": below the threshold the lightest colour; "two" colours.
 * @param {number} threshold A level.
 * @returns {Uint8Array} (251,)
 */
export function shownEntries(show, threshold) {
  const entries = new Uint8Array(STEPS + 1);
  for (let level = 0; level <= STEPS; level += 1) {
    if (show === "all") entries[level] = level;
    else if (level < threshold) entries[level] = 0;
    else entries[level] = show === "two" ? PRESENT : level;
  }
  return entries;
}

/**
 * The table that paints a tile.
 * @param {string[]} palette 251 colours "#rrggbb".
 * @param {string} show See `shownEntries`.
 * @param {number} threshold A level.
 * @returns {Uint32Array} (256,) RGBA in the byte order of ImageData; nodata and unused levels wholly clear.
 */
export function buildLut(palette, show = "all", threshold = 0) {
  const bytes = new Uint8ClampedArray(4 * 256);
  shownEntries(show, threshold).forEach((entry, level) => {
    const rgb = parseInt(palette[entry].slice(1), 16);
    bytes.set([rgb >> 16, (rgb >> 8) & 255, rgb & 255, 255], 4 * level);
  });
  return new Uint32Array(bytes.buffer);
}
