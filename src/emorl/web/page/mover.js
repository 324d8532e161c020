// Moving an object: its code goes where its centroid follows a point.

import { centroid, visible } from "./scene.js";

/** @typedef {import("./metadata").Motion} Motion */
/** @typedef {import("./scene.js").Appearance} Appearance */
/** @typedef {import("./scene.js").Place} Place */
/** @typedef {import("./networks.js").Networks} Networks */

/** Distance that is good enough, over the picture's width: a quarter of a pixel of 35. */
const NEAR = 1 / 140;
/** Decodes for one goal. */
const STEPS = 4;

/**
 * The code goes along the surface that was fitted at export: where it aims at, objects arrive on average. This one
 * misses by some pixels, which change little from one place to the next, so the next aim is corrected by what the last
 * one missed. A step that leads no nearer, or where nothing of the object is seen, is halved.
 */
export class Mover {
  /**
   * @param {Networks} networks
   * @param {Motion} motion
   * @param {Appearance[]} others the other slots of the scene
   * @param {Float32Array} code
   * @param {Appearance} look
   */
  constructor(networks, motion, others, code, look) {
    this.networks = networks;
    this.motion = motion;
    this.others = others;
    this.start = { code, place: this.#place(look) };
    this.code = code;
    this.look = look;
    this.place = this.start.place;
    /** Where the code aims at; the object is at `place`. */
    this.aim = this.place;
  }

  /**
   * Take the object towards a goal: `code`, `look` and `place` are then those of the nearest point found. Of an object
   * that is not seen they stay as they are.
   * @param {Place} goal
   * @param {object} [hooks]
   * @param {() => void} [hooks.moved] is called after every step that was taken
   * @param {() => boolean} [hooks.goOn] is asked before every further step
   */
  async follow(goal, { moved = () => {}, goOn = () => true } = {}) {
    if (!this.aim || !this.place) return;
    const near = NEAR * this.networks.width;
    if (distance(this.place, goal) < near) return;
    let least = Infinity; // the first step is taken wherever it leads: the next is corrected by it
    let aim = shifted(goal, this.aim, this.place);
    for (let steps = 0; steps < STEPS && least >= near; steps++) {
      if (steps > 0 && !goOn()) return;
      const code = this.#codeAt(aim);
      const [look] = await this.networks.decode([code]);
      const place = this.#place(look);
      if (place && distance(place, goal) < least) {
        least = distance(place, goal);
        Object.assign(this, { code, look, place, aim });
        moved();
        aim = shifted(aim, goal, place);
      } else {
        aim = { x: (aim.x + this.aim.x) / 2, y: (aim.y + this.aim.y) / 2 };
      }
    }
  }

  /** @param {Place} aim */
  #codeAt(aim) {
    const { code, place } = this.start;
    const to = surface(aim, this.motion);
    const from = surface(/** @type {Place} */ (place), this.motion);
    const changes = to.map((value, i) => value - from[i]);
    return code.map((value, d) => this.motion.curve.reduce((sum, row, i) => sum + changes[i] * row[d], value));
  }

  /** @param {Appearance} look */
  #place(look) {
    const [shown] = visible([look, ...this.others], [0]);
    return centroid(shown, this.networks.width);
  }
}

/**
 * u, w, u², u w, w² of a place, and their tangents outside of 0 to 1; handles.py computes the same.
 * @param {Place} place
 * @param {Pick<Motion, "low" | "high">} motion
 */
export function surface({ x, y }, { low, high }) {
  const [u, w] = [(x - low[0]) / (high[0] - low[0]), (y - low[1]) / (high[1] - low[1])];
  const [inU, inW] = [clamped(u), clamped(w)];
  const [outU, outW] = [u - inU, w - inW];
  return [u, w, inU * (inU + 2 * outU), inU * inW + inW * outU + inU * outW, inW * (inW + 2 * outW)];
}

/** @param {number} value */
const clamped = (value) => Math.min(1, Math.max(0, value));

/**
 * @param {Place} one
 * @param {Place} other
 */
const distance = (one, other) => Math.hypot(one.x - other.x, one.y - other.y);

/**
 * A place, moved as from one to another.
 * @param {Place} place
 * @param {Place} to
 * @param {Place} from
 */
const shifted = (place, to, from) => ({ x: place.x + to.x - from.x, y: place.y + to.y - from.y });
