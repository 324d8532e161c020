// Moving an object: its code goes where its centroid follows a point.

import { centroid, visible } from "./scene.js";

/** @typedef {import("./metadata").Motion} Motion */
/** @typedef {import("./scene.js").Appearance} Appearance */
/** @typedef {import("./scene.js").Place} Place */
/** @typedef {import("./networks.js").Networks} Networks */

/** Distance that is good enough, over the picture's width: a quarter of a pixel of 35. */
const NEAR = 1 / 140;
/** The farthest that is aimed beside a goal, over the picture's width: a point that cannot be reached misleads no more. */
const BESIDE = 1 / 8;
/** Decodes for one goal. */
const STEPS = 4;

/**
 * The code goes along the surface that was fitted at export: where it aims at, objects arrive on average. This one
 * misses by some pixels, which change little from one place to the next, so the next aim is corrected by what the last
 * one missed. The first step towards a goal is taken wherever it leads; one that then leads no nearer, or where nothing
 * of the object is seen, is halved.
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
    this.code = code;
    this.look = look;
    this.place = this.#place(look);
    /** Where the code aims at; the object is at `place`. */
    this.aim = this.place;
    /** Where it was last taken to. */
    this.goal = this.place;
    /** What of the code does not change with the aim. */
    this.rest = this.aim && sum(code, -1, this.#onSurface(this.aim));
  }

  /**
   * Take the object towards a goal: `code`, `look` and `place` are then those of the nearest step. Where the object is
   * not seen after any step they stay as they are.
   * @param {Place} goal
   * @param {object} [hooks]
   * @param {() => void} [hooks.moved] is called after every step that was taken
   * @param {() => boolean} [hooks.goOn] is asked before every further step
   */
  async follow(goal, { moved = () => {}, goOn = () => true } = {}) {
    if (!this.place || !this.aim || !this.rest) return;
    this.goal = goal;
    const near = NEAR * this.networks.width;
    if (distance(this.place, goal) < near) return;
    let least = Infinity;
    let aim = this.#corrected(goal);
    for (let steps = 0; steps < STEPS && least >= near; steps++) {
      if (steps > 0 && !goOn()) return;
      const code = sum(this.rest, 1, this.#onSurface(aim));
      const [look] = await this.networks.decode([code]);
      const place = this.#place(look);
      if (place && distance(place, goal) < least) {
        least = distance(place, goal);
        Object.assign(this, { code, look, place, aim });
        moved();
        aim = this.#corrected(goal);
      } else {
        aim = { x: (aim.x + this.aim.x) / 2, y: (aim.y + this.aim.y) / 2 };
      }
    }
  }

  /**
   * Beside a goal by what the last aim missed.
   * @param {Place} goal
   */
  #corrected(goal) {
    const [aim, place] = [/** @type {Place} */ (this.aim), /** @type {Place} */ (this.place)];
    const share = Math.min(1, (BESIDE * this.networks.width) / distance(aim, place));
    return { x: goal.x + share * (aim.x - place.x), y: goal.y + share * (aim.y - place.y) };
  }

  /** @param {Place} place */
  #onSurface(place) {
    const heights = terms(place, this.motion);
    return this.code.map((_, d) => this.motion.curve.reduce((total, row, i) => total + heights[i] * row[d], 0));
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
export function terms({ x, y }, { low, high }) {
  const [u, w] = [(x - low[0]) / (high[0] - low[0]), (y - low[1]) / (high[1] - low[1])];
  const [outU, outW] = [u - clamped(u), w - clamped(w)];
  return [u, w, u * u - outU * outU, u * w - outU * outW, w * w - outW * outW];
}

/** @param {number} value */
const clamped = (value) => Math.min(1, Math.max(0, value));

/**
 * @param {Place} one
 * @param {Place} other
 */
const distance = (one, other) => Math.hypot(one.x - other.x, one.y - other.y);

/**
 * @param {Float32Array} one
 * @param {number} times
 * @param {Float32Array} other
 */
const sum = (one, times, other) => one.map((value, d) => value + times * other[d]);
