/** A polygon drawn on the map: by clicks, or with the keyboard at the map's centre. */

import * as L from "leaflet";
import { say } from "./toast.js";

export class Drawing {
  /** @type {any[]} */
  #corners = [];
  active = false;

  /**
   * @param {any} map
   * @param {(corners: [number, number][] | null) => void} done Told lon, lat of each corner; null if given up.
   */
  constructor(map, done) {
    this.map = map;
    this.done = done;
    this.shape = L.polygon([], { className: "drawn", interactive: false, dashArray: "4 4" });
    map.getContainer().addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.active && this.#key(event), true);
  }

  start() {
    this.active = true;
    this.#corners = [];
    this.shape.setLatLngs([]).addTo(this.map);
    this.map.doubleClickZoom.disable();
    this.map.getContainer().classList.add("drawing");
    this.map.getContainer().focus();
    say("Drawing. Click, or press Space at the map’s centre, for each corner; Enter ends, Escape gives up.");
  }

  /** @param {{lat: number, lng: number}} corner */
  add(corner) {
    this.#corners.push(corner);
    this.shape.setLatLngs(this.#corners);
    say(`Corner ${this.#corners.length}.`);
  }

  finish() {
    if (this.#corners.length < 3) {
      say("A polygon needs three corners or more.");
      return;
    }
    this.#end(this.#corners.map(({ lng, lat }) => [Number(lng.toFixed(4)), Number(lat.toFixed(4))]));
  }

  cancel() {
    this.#end(null);
  }

  /** @param {[number, number][] | null} corners */
  #end(corners) {
    this.active = false;
    this.shape.remove();
    this.map.doubleClickZoom.enable();
    this.map.getContainer().classList.remove("drawing");
    this.done(corners);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    /** @type {Record<string, () => void>} */
    const keys = {
      " ": () => this.add(this.map.getCenter()),
      Enter: () => this.finish(),
      Escape: () => this.cancel(),
      Backspace: () => {
        this.#corners.pop();
        this.shape.setLatLngs(this.#corners);
      },
    };
    if (!(event.key in keys) || event.target !== this.map.getContainer()) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  }
}
