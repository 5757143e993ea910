/** Outlines that come with the page: land, countries, states and counties, each file fetched once. */

import { feature } from "topojson-client";
import usFile from "../made/us.topojson";
import worldFile from "../made/world.topojson";
import { answer } from "./api.js";

/** @type {Map<string, Promise<any>>} */
const files = new Map();

/** @param {string} file Beside this script. */
function load(file) {
  const known = files.get(file);
  if (known) return known;
  const loading = answer(new URL(file, import.meta.url).href).then((response) => response.json());
  loading.catch(() => files.delete(file)); // the next who asks tries again
  files.set(file, loading);
  return loading;
}

/** Land as polygons and borders of countries as lines: [GeoJSON, GeoJSON]. */
export async function world() {
  const topology = await load(worldFile);
  const { land, borders } = topology.objects;
  return [feature(topology, land), feature(topology, borders)];
}

/** US states as polygons, their borders and those of counties as lines. */
export async function unitedStates() {
  const topology = await load(usFile);
  const { states, stateLines, countyLines } = topology.objects;
  return [feature(topology, states), feature(topology, stateLines), feature(topology, countyLines)];
}

/**
 * @typedef {{id: string, name: string, within: string, geometry: any}} Region
 * `id` as in the address of the page: "county:06053", "state:06".
 */

/** Every region that can be chosen by name: counties and states. */
export async function regions() {
  const us = await load(usFile);
  return [
    ...named(us, "counties", "county", (properties) => `county, ${properties.state}`),
    ...named(us, "states", "state", () => "state of the USA"),
  ];
}

/**
 * @param {any} topology
 * @param {string} object
 * @param {string} kind
 * @param {(properties: any) => string} within
 * @returns {Region[]}
 */
function named(topology, object, kind, within) {
  const collection = /** @type {any} */ (feature(topology, topology.objects[object]));
  return collection.features
    .filter((/** @type {any} */ each) => each.id !== undefined)
    .map((/** @type {any} */ each) => ({
      id: `${kind}:${each.id}`,
      name: each.properties.name,
      within: within(each.properties),
      geometry: each.geometry,
    }));
}
