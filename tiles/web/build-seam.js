/** Outlines on a sphere made flat: polygons that cross the antimeridian are cut there, and those around a pole closed. */

import clipping from "polygon-clipping";

const WORLD = [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]];

/**
 * @param {any} land Feature or collection of polygons, whose rings jump from one side of the world to the other.
 * @returns {any} One MultiPolygon within -180..180 degrees.
 */
export function cutLand(land) {
  const features = land.type === "FeatureCollection" ? land.features : [land];
  const polygons = features.flatMap(({ geometry }) =>
    geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates,
  );
  return { type: "MultiPolygon", coordinates: polygons.flatMap(cut) };
}

/** A polygon in parts that lie within the world, each moved by whole turns. */
function cut(polygon) {
  const [outer, ...holes] = polygon.map(unrolled);
  const inner = holes.map((hole) => moved(hole, 360 * Math.round((outer[0][0] - hole[0][0]) / 360)));
  const whole = [outer, ...inner];
  const lons = outer.map(([lon]) => lon);
  if (Math.min(...lons) >= -180 && Math.max(...lons) <= 180) return [whole];
  return [-360, 0, 360].flatMap((turn) => clipping.intersection(whole.map((ring) => moved(ring, turn)), WORLD));
}

/** A ring without jumps, whose longitudes may leave -180..180; one around the South Pole is closed below it. */
function unrolled(ring) {
  let turn = 0;
  const places = ring.map(([lon, lat], at) => {
    // Along the pole itself a ring does run around the world.
    if (at > 0 && lat > -89.9) turn += 360 * Math.round((ring[at - 1][0] - lon) / 360);
    return [lon + turn, lat];
  });
  const [first, last] = [places[0], places.at(-1)];
  return Math.abs(first[0] - last[0]) > 180 ? [...places, [last[0], -90], [first[0], -90], first] : places;
}

/** @param {number[][]} ring @param {number} turn */
function moved(ring, turn) {
  return ring.map(([lon, lat]) => [lon + turn, lat]);
}

/** Lines without the segments that run around the world. */
export function withoutJumps(lines) {
  const parts = lines.coordinates.flatMap((line) => {
    const pieces = [[line[0]]];
    for (let at = 1; at < line.length; at += 1) {
      if (Math.abs(line[at][0] - line[at - 1][0]) > 180) pieces.push([]);
      pieces.at(-1).push(line[at]);
    }
    return pieces.filter((piece) => piece.length > 1);
  });
  return { type: "MultiLineString", coordinates: parts };
}
