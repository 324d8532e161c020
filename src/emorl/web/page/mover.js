// Moving an object: its code goes where its centroid follows a point.

import { centroid, visible } from "./scene.js";

/** @typedef {import("./scene.js").Appearance} Appearance */
/** @typedef {import("./scene.js").Place} Place */
/** @typedef {import("./networks.js").Networks} Networks */

/** Distance that is good enough, over the picture's width: a quarter of a pixel of 35. */
const NEAR = 1 / 140;
/** The longest step, in pixels of the fitted map. */
const LONGEST = 5;
/** Steps towards one goal. */
const STEPS = 4;
/**
 * The code moves in the plane of two directions, fitted at export, that take an object one pixel to the right and down
 * on average. For this object they do not quite: how its centroid follows is measured by finite differences at the
 * start, corrected after every step (Broyden's update), and measured again where a step made it worse.
 */
export class Mover {
  /**
   * @param {Networks} networks
   * @param {number[][]} motion the two directions, D each
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
    /** @type {number[] | null} d centroid / d step, row by row */
    this.slope = null;
  }

  /**
   * Take the object towards a goal: `code`, `look` and `place` are then those of the nearest point found.
   * @param {Place} goal
   * @param {object} [hooks]
   * @param {() => void} [hooks.nearer] is called after every step that came nearer
   * @param {() => boolean} [hooks.goOn] is asked before every further step
   */
  async follow(goal, { nearer = () => {}, goOn = () => true } = {}) {
    for (let steps = 0; steps < STEPS && !this.#near(goal); steps++) {
      if (steps > 0 && !goOn()) return;
      const measured = this.slope === null;
      if (await this.#step(goal)) {
        nearer();
      } else {
        this.slope = null; // what was measured elsewhere does not hold here
        if (measured) return; // it was measured here: no nearer is to be had
      }
    }
  }

  /**
   * @param {Place} goal
   * @returns {Promise<boolean>} whether the step led nearer, and was taken
   */
  async #step(goal) {
    if (!this.place) return false;
    const gap = { x: goal.x - this.place.x, y: goal.y - this.place.y };
    this.slope ??= await this.#measure();
    const step = limited(solve(this.slope, gap));
    const code = this.#stepped(step);
    const [look] = await this.networks.decode([code]);
    const place = this.#place(look);
    if (!place || Math.hypot(goal.x - place.x, goal.y - place.y) >= Math.hypot(gap.x, gap.y)) return false;
    this.slope = updated(this.slope, step, { x: place.x - this.place.x, y: place.y - this.place.y });
    Object.assign(this, { code, look, place });
    return true;
  }

  /** @param {Place} goal */
  #near(goal) {
    const near = NEAR * this.networks.width;
    return this.place !== null && Math.hypot(goal.x - this.place.x, goal.y - this.place.y) < near;
  }

  /** Finite differences of one pixel each way. */
  async #measure() {
    const steps = [{ x: 1, y: 0 }, { x: 0, y: 1 }];
    const looks = await this.networks.decode(steps.map((step) => this.#stepped(step)));
    const from = /** @type {Place} */ (this.place);
    const [right, down] = looks.map((look) => this.#place(look) ?? from);
    return [right.x - from.x, down.x - from.x, right.y - from.y, down.y - from.y];
  }

  /** @param {Place} step in pixels of the fitted map */
  #stepped(step) {
    const [right, down] = this.motion;
    return this.code.map((value, d) => value + step.x * right[d] + step.y * down[d]);
  }

  /** @param {Appearance} look */
  #place(look) {
    const [shown] = visible([look, ...this.others], [0]);
    return centroid(shown, this.networks.width);
  }
}

/**
 * Damped least squares, (S'S + 0.01) step = S' gap: a slope near zero gives no huge step.
 * @param {number[]} slope
 * @param {Place} gap
 */
function solve([a, b, c, d], gap) {
  const [p, q, r] = [a * a + c * c + 0.01, a * b + c * d, b * b + d * d + 0.01];
  const [u, v] = [a * gap.x + c * gap.y, b * gap.x + d * gap.y];
  const determinant = p * r - q * q;
  return { x: (r * u - q * v) / determinant, y: (p * v - q * u) / determinant };
}

/** @param {Place} step */
function limited(step) {
  const scale = Math.min(1, LONGEST / Math.hypot(step.x, step.y));
  return { x: step.x * scale, y: step.y * scale };
}

/**
 * The smallest change of the slope that explains what a step did.
 * @param {number[]} slope
 * @param {Place} step
 * @param {Place} moved
 */
function updated([a, b, c, d], step, moved) {
  const square = step.x ** 2 + step.y ** 2;
  const [missX, missY] = [moved.x - a * step.x - b * step.y, moved.y - c * step.x - d * step.y];
  return [
    a + (missX * step.x) / square,
    b + (missX * step.y) / square,
    c + (missY * step.x) / square,
    d + (missY * step.y) / square,
  ];
}
