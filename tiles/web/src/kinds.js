/** The layers of a map sorted into kinds: what is there for a month, or for several, is one kind. */

/** @typedef {{name: string, description: string, month: number | null}} Layer */

/** @param {Layer} layer The name that layers of one kind share. */
export const kindOf = (layer) => (layer.month === null ? layer.name : layer.name.replace(/-in-month-\d+$/, ""));

/** @param {Layer} layer The words that layers of one kind share. */
export const wordsOf = (layer) => (layer.month === null ? layer.description : layer.description.replace(/ in month \d+$/, "")) || kindOf(layer);

/**
 * @param {Layer[]} layers
 * @returns {[string, string][]} Each kind with its words, in the order of the layers.
 */
export function kinds(layers) {
  return [...new Map(layers.map((each) => [kindOf(each), wordsOf(each)]))];
}

/**
 * The layer of a kind that is nearest to a month; the first one where it has no months.
 *
 * @param {Layer[]} layers
 * @param {string} kind
 * @param {number | null} month
 * @returns {Layer | undefined}
 */
export function layerFor(layers, kind, month) {
  const off = (/** @type {Layer} */ each) => Math.abs((each.month ?? 0) - (month ?? each.month ?? 0));
  return layers.filter((each) => kindOf(each) === kind).sort((a, b) => off(a) - off(b))[0];
}
