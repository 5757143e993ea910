/** Elements without a framework: built from names, attributes and children; text is always text, never HTML. */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Build an element.
 * @param {string} tag
 * @param {Record<string, any>} [props] `onclick` and the like are listeners, `dataset` is copied, null is left out.
 * @param {...(Child | Child[])} children
 * @returns {any} The element.
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child || child === 0).map(asNode));
  return element;
}

/** @param {any} child */
function asNode(child) {
  return child instanceof Node ? child : String(child);
}

/**
 * The element with an id, which the page is known to have.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/**
 * Names of a species: the common one first, the scientific one in italics and marked as Latin.
 * @param {{scientificName: string, vernacularName?: string}} species
 */
export function speciesName(species) {
  const latin = h("i", { lang: "la" }, species.scientificName);
  if (!species.vernacularName) return h("span", { class: "name" }, latin);
  return h("span", { class: "name" }, h("span", { class: "common" }, species.vernacularName), " ", latin);
}

/** @param {{scientificName: string, vernacularName?: string}} species */
export function plainName(species) {
  return species.vernacularName
    ? `${species.vernacularName} (${species.scientificName})`
    : species.scientificName;
}

/**
 * Options of a select, with one chosen.
 * @param {HTMLSelectElement} select
 * @param {[string, string][]} choices Value and text of each.
 * @param {string} chosen
 */
export function fillSelect(select, choices, chosen) {
  select.replaceChildren(...choices.map(([value, text]) => h("option", { value }, text)));
  select.value = chosen;
}
