/** Numbers, places and units as a reader wants them. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const two = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const small = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** @param {number | null | undefined} value */
export function score(value) {
  if (value === null || value === undefined) return "–";
  return value > 0 && value < 0.01 ? small.format(value) : two.format(value);
}

/**
 * A value of a map; values between 0 and 1 with two decimals.
 * @param {number | null | undefined} value
 * @param {string} [unit]
 */
export function amount(value, unit = "") {
  if (value === null || value === undefined) return "no data";
  const text = Math.abs(value) <= 1 ? score(value) : digits.format(value);
  return unit && !RELATIVE.has(unit) ? `${text} ${unit}` : text;
}

const RELATIVE = new Set(["suitability", "probability", "similarity", "1"]);

/** @param {number | null | undefined} km2 Square kilometres. */
export function area(km2) {
  if (km2 === null || km2 === undefined) return "–";
  return `${km2 >= 100 ? whole.format(km2) : digits.format(km2)} km²`;
}

/** @param {number | null | undefined} share 0..1 */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  return share > 0 && share < 0.01 ? "< 1 %" : `${whole.format(100 * share)} %`;
}

/** @param {number | null | undefined} n */
export function count(n) {
  return n === null || n === undefined ? "–" : whole.format(n);
}

/** @param {number} lon @param {number} lat Degrees. */
export function place(lon, lat) {
  const north = `${Math.abs(lat).toFixed(3)}° ${lat < 0 ? "S" : "N"}`;
  return `${north}, ${Math.abs(lon).toFixed(3)}° ${lon < 0 ? "W" : "E"}`;
}

/** @param {string} text */
export function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1) : text;
}

export const MONTHS = [
  "January", "February", "March", "April", "May", "June",
  "July", "August", "September", "October", "November", "December",
];

/**
 * Rows as CSV (RFC 4180).
 * @param {(string | number | null | undefined)[][]} rows
 */
export function csv(rows) {
  return rows.map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

/** @param {string | number | null | undefined} cell */
function csvCell(cell) {
  const text = cell === null || cell === undefined ? "" : String(cell);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
