/** Outlines for the offline basemap and the choice of regions: simplified, pruned, with names. */

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import clipping from "polygon-clipping";
import { feature, mesh, quantize } from "topojson-client";
import { topology } from "topojson-server";
import { filter, filterWeight, presimplify, simplify } from "topojson-simplify";
import { cutLand, withoutJumps } from "./build-seam.js";

const require = createRequire(import.meta.url);
// Counties of California and of the states beside it, by the number of the state.
const WITH_COUNTIES = new Set(["04", "06", "32", "41"]);
const GRID = 1e6; // steps of the quantised outlines, 0.00036 degrees
const US_WEIGHT = 1e-6; // square degrees: smaller bends and islets are left out
const WORLD_WEIGHT = 4e-4;

/** @param {string} folder Where to; made if need be. */
export function writeOutlines(folder) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "world.topojson"), JSON.stringify(worldOutlines()));
  writeFileSync(join(folder, "us.topojson"), JSON.stringify(usOutlines()));
}

function worldOutlines() {
  const atlas = read("world-atlas/countries-50m.json");
  const borders = withoutJumps(mesh(atlas, atlas.objects.countries, (a, b) => a !== b));
  return small({ land: cutLand(feature(atlas, atlas.objects.land)), borders }, WORLD_WEIGHT);
}

function usOutlines() {
  const atlas = read("us-atlas/counties-10m.json");
  const states = feature(atlas, atlas.objects.states);
  const names = new Map(states.features.map((each) => [each.id, each.properties.name]));
  const counties = feature(atlas, atlas.objects.counties);
  counties.features = counties.features.filter(withCounties);
  for (const each of counties.features) each.properties.state = names.get(each.id.slice(0, 2));
  // A region may be added up, and a polygon that crosses itself has no area: some of the source do, by a few metres.
  // Lines are taken before the repair, which would leave neighbours with borders that are no longer the same.
  const inner = (a, b) => a !== b;
  const stateLines = mesh(atlas, atlas.objects.states, inner);
  const chosen = { type: "GeometryCollection", geometries: atlas.objects.counties.geometries.filter(withCounties) };
  const countyLines = mesh(atlas, chosen, inner);
  for (const each of [...states.features, ...counties.features]) each.geometry = uncrossed(each.geometry);
  return small({ states, counties, stateLines, countyLines }, US_WEIGHT);
}

/** Whether the counties of this one's state are carried. */
function withCounties(county) {
  return WITH_COUNTIES.has(county.id.slice(0, 2));
}

/** The same area with rings that neither cross nor touch themselves. */
function uncrossed(geometry) {
  return { type: "MultiPolygon", coordinates: clipping.union(geometry.coordinates) };
}

/** A topology without the bends and islets that no screen shows. */
function small(objects, weight) {
  const weighted = presimplify(topology(objects, GRID));
  const simple = quantize(filter(simplify(weighted, weight), filterWeight(weighted, weight)), GRID);
  for (const each of Object.values(simple.objects)) if (each.type === "MultiPolygon") each.arcs = whole(each, simple);
  return simple;
}

/** The polygons of a geometry whose outer ring is more than a point or a line. */
function whole(geometry, simple) {
  const { coordinates } = feature(simple, geometry).geometry;
  return geometry.arcs.filter((_, at) => new Set(coordinates[at][0].map(String)).size > 2);
}

/** @param {string} name */
function read(name) {
  return JSON.parse(readFileSync(require.resolve(name), "utf8"));
}
