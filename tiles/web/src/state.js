/** Everything that a link to this page says, kept in the hash of its address. */

/**
 * @typedef {object} State
 * @property {string} species Id; "" shows the first species of the first group.
 * @property {string} group "" takes the best model of the species.
 * @property {string} grid "" takes the finest.
 * @property {string} layer Name of a band; "" is the first. A month is a band too.
 * @property {string} map "zoom/lat/lon"; "" fits the map to the grid.
 * @property {string} show all | cut | two
 * @property {string} threshold Key (p10) or value (0.31); "" is the default of the map.
 * @property {string} colormap
 * @property {string} opacity Per cent.
 * @property {string} compare Id of a second species.
 * @property {string} how swipe | both
 * @property {string} split Place of the divider, per cent of the width.
 * @property {string} basemap outline | online
 * @property {string} records "on" shows the points.
 * @property {string} region "county:06053", "state:06" or "poly:lon,lat;lon,lat;…"
 * @property {string} place "lat,lon" of the queried place.
 * @property {string} theme light | dark | "" as the system says.
 */

/** @type {State} */
export const DEFAULTS = Object.freeze({
  species: "", group: "", grid: "", layer: "", map: "", show: "all", threshold: "", colormap: "",
  opacity: "100", compare: "", how: "swipe", split: "50", basemap: "outline", records: "", region: "",
  place: "", theme: "",
});

/**
 * The state that a hash says; unknown names are dropped and choices that do not exist are the default.
 * @param {string} hash
 * @returns {State}
 */
export function parse(hash) {
  const state = { ...DEFAULTS };
  for (const [name, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (name in DEFAULTS && valid(name, value)) state[/** @type {keyof State} */ (name)] = value;
  }
  return state;
}

/** @type {Record<string, RegExp>} */
const FORMS = {
  species: /^[a-z0-9][a-z0-9._-]*$/,
  compare: /^[a-z0-9][a-z0-9._-]*$/,
  map: /^\d+(\.\d+)?\/-?\d+(\.\d+)?\/-?\d+(\.\d+)?$/,
  show: /^(all|cut|two)$/,
  threshold: /^([a-z][a-z0-9]*|[01](\.\d+)?)$/,
  opacity: /^(\d{1,2}|100)$/,
  how: /^(swipe|both)$/,
  split: /^(\d{1,2}|100)$/,
  basemap: /^(outline|online)$/,
  records: /^on$/,
  region: /^((county|state):\w+|poly:[-\d.,;]+)$/,
  place: /^-?\d+(\.\d+)?,-?\d+(\.\d+)?$/,
  theme: /^(light|dark)$/,
};

/** @param {string} name @param {string} value */
function valid(name, value) {
  return value === "" || !(name in FORMS) || FORMS[name].test(value);
}

/**
 * The hash that says a state; what is as by default is left out.
 * @param {State} state
 */
export function format(state) {
  const said = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[/** @type {keyof State} */ (name)]);
  const text = new URLSearchParams(said).toString();
  return `#${text.replaceAll("%2F", "/").replaceAll("%2C", ",").replaceAll("%3A", ":").replaceAll("%3B", ";")}`;
}

/** The state of the page; whoever changes it, those who watch the changed names are told. */
export class Store {
  /** @type {{names: Set<string>, told: (state: State, changed: Set<string>) => void}[]} */
  #watchers = [];

  constructor() {
    /** @type {State} */
    this.state = parse(location.hash);
    addEventListener("popstate", () => this.#become(parse(location.hash)));
  }

  /**
   * Change the state.
   * @param {Partial<State>} patch
   * @param {boolean} [step] True where the back button should undo it.
   */
  set(patch, step = false) {
    const next = { ...this.state, ...patch };
    const address = format(next);
    if (address !== format(this.state)) {
      if (step) history.pushState(null, "", address);
      else history.replaceState(null, "", address);
    }
    this.#become(next);
  }

  /**
   * Be told when one of these names changes.
   * @param {(keyof State)[]} names
   * @param {(state: State, changed: Set<string>) => void} told
   */
  watch(names, told) {
    this.#watchers.push({ names: new Set(names), told });
  }

  /** @param {State} next */
  #become(next) {
    const before = this.state;
    this.state = next;
    const changed = new Set(
      Object.keys(DEFAULTS).filter((name) => {
        const key = /** @type {keyof State} */ (name);
        return before[key] !== next[key];
      }),
    );
    if (!changed.size) return;
    for (const { names, told } of this.#watchers) {
      if ([...changed].some((name) => names.has(name))) told(this.state, changed);
    }
  }
}
