/** The page: wires the state in the address to the map and the panels. */

import { ask } from "./api.js";
import { Basemap } from "./basemap.js";
import { Combobox } from "./combobox.js";
import { Compare } from "./compare.js";
import { byId, fillSelect, plainName, speciesName, h } from "./dom.js";
import { drawDownloads } from "./downloads.js";
import { LayersPanel } from "./layers.js";
import { drawAbout, drawLegend, drawReading, drawSources } from "./legend.js";
import { SpeciesLayer, createMap, keepView } from "./map.js";
import { QueryPanel } from "./query.js";
import { Records } from "./records.js";
import { RegionsPanel } from "./regions.js";
import { Store } from "./state.js";
import { Subject } from "./subject.js";
import { keepTheme } from "./theme.js";
import { ThresholdPanel } from "./threshold.js";
import { fail, forget } from "./toast.js";

const FOUND = 50; // species listed for a search

const store = new Store();
const first = new Subject("first");
const second = new Subject("second");
const map = createMap(byId("map"));
const basemap = new Basemap(map, store, fail);
keepView(map, store, first);
keepTheme(byId("theme"), store, () => basemap.restyle());

/** @param {string} id @param {(item: any) => void} choose @param {() => Record<string, string>} within */
function speciesBox(id, choose, within) {
  return new Combobox(byId(id), byId(`${id}-list`), byId(`${id}-note`), {
    find: async (text) => (await ask("species", { search: text, limit: FOUND, ...within() }, { slot: id })).species,
    show: (item) => h("span", {}, speciesName(item)),
    label: plainName,
    choose,
    fail,
  });
}

const search = speciesBox("search", chooseSpecies, () => ({ group: store.state.group }));
const other = speciesBox("compare", (item) => store.set({ compare: item.id }, true), () => ({ grid: first.info?.grid ?? "" }));
const layer = new SpeciesLayer(map, first, store, { fail, stale: reload });
const query = new QueryPanel(byId("query"), map, first, store, fail);
const regions = new RegionsPanel(
  { input: byId("region"), list: byId("region-list"), note: byId("region-note"), tools: byId("region-tools"), table: byId("region-table") },
  map, first, store, fail,
);
new ThresholdPanel(byId("threshold-box"), first, store, fail);
new Records(byId("records-box"), map, first, store, fail);
new Compare({ box: byId("compare-box"), divider: byId("divider"), keys: byId("compare-keys") }, map, first, second, store, fail);

map.on("click", (/** @type {any} */ event) =>
  regions.drawing.active ? regions.drawing.add(event.latlng) : query.at(event.latlng));
map.getContainer().addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
  if (event.key === "Enter" && event.target === map.getContainer() && !regions.drawing.active) query.centre();
});

/** @type {any[]} */
let groups = [];
/** @type {any[]} */
let grids = [];

/** @param {any} item Of /species. */
function chooseSpecies(item) {
  const { grid, group } = store.state;
  const kept = (/** @type {string} */ name, /** @type {string[]} */ among) => (among?.includes(name) ? name : "");
  store.set({ species: item.id, layer: "", threshold: "", grid: kept(grid, item.grids), group: kept(group, item.groups) }, true);
}

/** The species of the state, or the one with the most records of the first group. */
async function show() {
  const { state } = store;
  byId("map").setAttribute("aria-busy", "true");
  try {
    if (!state.species) {
      const listed = await ask("species", { group: state.group || groups[0].name, limit: 500 });
      if (!listed.species.length) throw new Error("There is no species to show. Fit or render one, then load this page again.");
      const most = listed.species.reduce((best, each) => ((each.records ?? 0) > (best.records ?? 0) ? each : best));
      await first.load({ ...state, species: most.id });
    } else {
      await first.load(state);
    }
  } catch (error) {
    byId("map").removeAttribute("aria-busy");
    fail(error, show);
  }
}

/** The second species of the state. */
async function showSecond() {
  const { compare, colormap } = store.state;
  if (!compare || !first.info) {
    if (second.info) second.clear();
    return;
  }
  try {
    await second.load({ species: compare, group: "", grid: first.info.grid, layer: "", colormap });
  } catch (error) {
    second.clear();
    fail(error, showSecond);
  }
}

/** The map has a newer version than the one loaded. */
function reload() {
  first.stale();
  second.stale();
  show();
}

/** The group was switched: keep the species if the group has it, else take its first. */
async function switchGroup() {
  const group = byId("group").value;
  const keeps = !group || first.info?.groups.includes(group);
  store.set({ group, layer: "", threshold: "", grid: "", ...(keeps ? {} : { species: "" }) }, true);
}

function drawFirst() {
  const { info } = first;
  if (!info) return;
  const name = plainName(info);
  document.title = `${name} · geomap`;
  document.querySelector('meta[name="description"]')?.setAttribute("content", `${name}: ${info.explanation}`);
  map.getContainer().setAttribute("aria-label", `Map of ${name}. Arrows move, plus and minus zoom, Enter asks for the value at the centre.`);
  search.label = name;
  drawAbout(byId("about"), first);
  drawReading(byId("reading"), first);
  drawSources(byId("sources"), first);
  drawDownloads(byId("downloads"), first, fail);
  fillSelect(byId("group"), [["", "All groups, best model"], ...groups.map((each) => [each.name, each.title])], store.state.group);
  const titles = Object.fromEntries(grids.map((each) => [each.name, each.title]));
  fillSelect(byId("grid"), info.grids.map((grid) => [grid, titles[grid] ?? grid]), info.grid);
  drawKeys();
}

function drawKeys() {
  drawLegend(byId("legend"), first, store.state);
}

async function start() {
  try {
    const answer = await ask("groups");
    groups = answer.groups;
    grids = answer.grids;
    new LayersPanel(byId("layers"), first, store, answer.colormaps);
    await show();
  } catch (error) {
    fail(error, start);
  }
}

first.addEventListener("change", () => {
  forget();
  drawFirst();
  layer.renew();
  showSecond();
});
second.addEventListener("change", () => (other.label = second.info ? plainName(second.info) : ""));
store.watch(["species", "group", "grid", "layer", "colormap"], show);
store.watch(["compare"], showSecond);
store.watch(["show", "threshold", "opacity"], drawKeys);
byId("group").addEventListener("change", switchGroup);
byId("grid").addEventListener("change", () => store.set({ grid: byId("grid").value }, true));
byId("to-map").addEventListener("click", () => map.getContainer().focus());
byId("sheet").addEventListener("click", () => {
  const large = document.body.classList.toggle("sheet-large");
  byId("sheet").setAttribute("aria-expanded", String(large));
});
start();
