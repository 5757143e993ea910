/** Parts of the page that need no browser: colours, words, the address. */

import assert from "node:assert/strict";
import test from "node:test";
import { kinds, layerFor } from "../src/kinds.js";
import { CLEAR, PRESENT, buildLut, cutLevel, levelOf, shownEntries, valueOf } from "../src/lut.js";
import { DEFAULTS, format, parse } from "../src/state.js";
import { amount, area, csv, percent, place, score } from "../src/words.js";

const UNIT = { low: 0, high: 1 };
const PALETTE = Array.from({ length: 251 }, (_, level) => `#${level.toString(16).padStart(2, "0")}00ff`);
const bytes = (lut, level) => [...new Uint8Array(lut.buffer, 4 * level, 4)];

test("each level has the colour of the legend, and nodata none", () => {
  const lut = buildLut(PALETTE);
  for (let level = 0; level <= 250; level += 1) assert.deepEqual(bytes(lut, level), [level, 0, 255, 255]);
  assert.deepEqual(bytes(lut, CLEAR), [0, 0, 0, 0]);
  assert.deepEqual(bytes(lut, 251), [0, 0, 0, 0]);
});

test("a threshold cuts from its own level on", () => {
  assert.deepEqual([...shownEntries("cut", 100)].slice(98, 102), [0, 0, 100, 101]);
  assert.deepEqual([...shownEntries("two", 100)].slice(98, 102), [0, 0, PRESENT, PRESENT]);
  assert.deepEqual([...shownEntries("all", 100)], Array.from({ length: 251 }, (_, level) => level));
});

test("levels and values are each other's inverse, also of layers in other units", () => {
  for (const band of [UNIT, { low: -5, high: 45 }]) {
    for (const level of [0, 1, 117, 250]) assert.equal(levelOf(valueOf(level, band), band), level);
  }
  assert.equal(levelOf(2, UNIT), 250);
  assert.equal(cutLevel(0.0005, UNIT), 1);
  assert.equal(cutLevel(0, UNIT), 0);
});

test("an address says the state and nothing that is as by default", () => {
  const state = { ...DEFAULTS, species: "quercus-lobata", map: "6/37.5/-120.1", region: "poly:-1,2;3,4;5,6" };
  assert.equal(format(state), "#species=quercus-lobata&map=6/37.5/-120.1&region=poly:-1,2;3,4;5,6");
  assert.deepEqual(parse(format(state)), state);
  assert.equal(format(DEFAULTS), "#");
});

test("what an address cannot say is the default", () => {
  const odd = parse("#show=<script>&species=../etc&opacity=500&unknown=1&threshold=NaN&map=6/a/b&theme=dark");
  assert.deepEqual(odd, { ...DEFAULTS, theme: "dark" });
});

test("numbers are told as a reader wants them", () => {
  assert.equal(score(0.0036), "0.0036");
  assert.equal(score(0.5), "0.50");
  assert.equal(amount(null), "no data");
  assert.equal(amount(12.345, "km"), "12.3 km");
  assert.equal(amount(0.25, "suitability"), "0.25");
  assert.equal(area(123456.7), "123,457 km²");
  assert.equal(percent(0.004), "< 1 %");
  assert.equal(percent(0), "0 %");
  assert.equal(place(-119.5, -37.25), "37.250° S, 119.500° W");
});

test("cells of CSV with commas, quotes and breaks are quoted", () => {
  assert.equal(csv([["a,b", 'c"d', 1, null]]), '"a,b","c""d",1,\r\n');
});

test("layers of several months are one kind, and a month finds the nearest one that it has", () => {
  const layer = (/** @type {string} */ words, /** @type {number | null} */ month) => {
    const description = month === null ? words : `${words} in month ${month}`;
    return { name: description.replaceAll(" ", "-"), description, month };
  };
  const layers = [layer("habitat", 5), layer("habitat", 11), layer("prior", null), layer("both", 5), layer("both", 11)];
  assert.deepEqual(kinds(layers), [["habitat", "habitat"], ["prior", "prior"], ["both", "both"]]);
  assert.equal(layerFor(layers, "both", 9)?.name, "both-in-month-11");
  assert.equal(layerFor(layers, "both", 1)?.name, "both-in-month-5");
  assert.equal(layerFor(layers, "prior", 9)?.name, "prior");
  assert.equal(layerFor(layers, "habitat", null)?.name, "habitat-in-month-5");
  assert.equal(layerFor(layers, "nothing", 1), undefined);
});
