// A scene as slots, and the picture that they make together. Pure functions; pictures are planes of floats in [0, 1].

/**
 * What one slot looks like by itself.
 * @typedef {object} Appearance
 * @property {Float32Array} logits H W: of its mask; only differences between slots matter
 * @property {Float32Array} colours 3 H W
 */

/**
 * A slot of a scene. Slots are never changed, only replaced.
 * @typedef {object} Slot
 * @property {number} id its own in the whole page; an edited slot keeps it
 * @property {number} hue which outline colour it has
 * @property {Float32Array} code
 * @property {Appearance} look
 */

/** @typedef {{ x: number, y: number }} Place column and row, in pixels */

/** A pixel belongs to a slot that changes one of its colours by more than this; handles.py says the same. */
export const VISIBLE = 0.15;
/** Fewer visible pixels are no object; representation.py says the same. */
const MIN_PIXELS = 4;

/**
 * The mixture: colours weighted by the softmax of the logits.
 * @param {Appearance[]} looks at least one
 * @returns {Float32Array} 3 H W
 */
export function mixture(looks) {
  const numPixels = looks[0].logits.length;
  const picture = new Float32Array(3 * numPixels);
  const weights = new Float64Array(looks.length);
  for (let p = 0; p < numPixels; p++) {
    softmax(looks, p, -1, weights);
    for (let c = 0; c < 3; c++) picture[c * numPixels + p] = mixed(looks, weights, c * numPixels + p);
  }
  return picture;
}

/**
 * The masks: the softmax of the logits over the slots.
 * @param {Appearance[]} looks
 * @returns {Float32Array[]} H W for each
 */
export function masks(looks) {
  const found = looks.map(({ logits }) => new Float32Array(logits.length));
  const weights = new Float64Array(looks.length);
  for (let p = 0; p < looks[0].logits.length; p++) {
    softmax(looks, p, -1, weights);
    found.forEach((mask, k) => (mask[p] = weights[k]));
  }
  return found;
}

/**
 * How much slots change the picture by being there: the mask times the largest difference, over the colours, to what
 * the other slots would show.
 *
 * What the others show is the mixture without the slot's share of it; where that share is nearly all, next to nothing
 * would be left to divide by, so the mixture of the others is made anew.
 * @param {Appearance[]} looks
 * @param {number[]} [wanted] which of them; all without it
 * @returns {Float32Array[]} H W in [0, 1] for each
 */
export function visible(looks, wanted = looks.map((_, k) => k)) {
  const numPixels = looks[0].logits.length;
  const shown = wanted.map(() => new Float32Array(numPixels));
  const all = new Float64Array(looks.length);
  const others = new Float64Array(looks.length);
  const whole = new Float64Array(3);
  for (let p = 0; p < numPixels; p++) {
    softmax(looks, p, -1, all);
    for (let c = 0; c < 3; c++) whole[c] = mixed(looks, all, c * numPixels + p);
    for (let i = 0; i < wanted.length; i++) {
      const k = wanted[i];
      const anew = all[k] > 0.5;
      if (anew) softmax(looks, p, k, others);
      let most = 0;
      for (let c = 0; c < 3; c++) {
        const at = c * numPixels + p;
        const own = looks[k].colours[at];
        const rest = anew ? mixed(looks, others, at) : (whole[c] - all[k] * own) / (1 - all[k]);
        most = Math.max(most, Math.abs(own - rest));
      }
      shown[i][p] = all[k] * most;
    }
  }
  return shown;
}

/**
 * Which slot each pixel belongs to.
 * @param {Float32Array[]} shown visible pixels of every slot
 * @returns {Int16Array} H W: position of the slot; -1 for pixels that no slot is seen at
 */
export function owners(shown) {
  const labels = new Int16Array(shown[0].length).fill(-1);
  for (let p = 0; p < labels.length; p++) {
    let most = VISIBLE;
    shown.forEach((values, k) => {
      if (values[p] > most) {
        most = values[p];
        labels[p] = k;
      }
    });
  }
  return labels;
}

/**
 * The centre of what is visible of a slot; null where next to nothing is.
 * @param {Float32Array} shown
 * @param {number} width
 * @returns {Place | null}
 */
export function centroid(shown, width) {
  let count = 0;
  let total = 0;
  let x = 0;
  let y = 0;
  for (let p = 0; p < shown.length; p++) {
    if (shown[p] > VISIBLE) {
      count += 1;
      total += shown[p];
      x += shown[p] * (p % width);
      y += shown[p] * Math.floor(p / width);
    }
  }
  return count >= MIN_PIXELS ? { x: x / total, y: y / total } : null;
}

/**
 * Where there is most room beside a place: of the eight around it, a quarter of the picture away and not at its border,
 * the one whose nearest other place is farthest.
 * @param {Place} place
 * @param {Place[]} others
 * @param {number} width
 * @param {number} height
 * @returns {Place}
 */
export function roomBeside(place, others, width, height) {
  /** @param {number} value @param {number} length */
  const within = (value, length) => value >= length / 8 && value <= (7 * length) / 8;
  /** @param {Place} at */
  const room = (at) => Math.min(...others.map((other) => Math.hypot(at.x - other.x, at.y - other.y)));
  return [[1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, 1], [1, -1], [-1, -1]]
    .map(([dx, dy]) => ({ x: place.x + (dx * width) / 4, y: place.y + (dy * height) / 4 }))
    .filter(({ x, y }) => within(x, width) && within(y, height))
    .reduce((best, at) => (room(at) > room(best) ? at : best));
}

/**
 * The border of the pixels of one slot as an SVG path of unit steps.
 * @param {Int16Array} labels
 * @param {number} k
 * @param {number} width
 */
export function border(labels, k, width) {
  const height = labels.length / width;
  /** @type {(x: number, y: number) => boolean} */
  const inside = (x, y) => x >= 0 && x < width && y >= 0 && y < height && labels[y * width + x] === k;
  let path = "";
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      if (inside(x, y) !== inside(x, y - 1)) path += `M${x} ${y}h1`;
      if (inside(x, y) !== inside(x - 1, y)) path += `M${x} ${y}v1`;
    }
  }
  return path;
}

/**
 * The softmax over slots at one pixel, perhaps without one of them, whose weight is then 0.
 * @param {Appearance[]} looks
 * @param {number} p
 * @param {number} without position of the slot that is left out; -1 for none
 * @param {Float64Array} weights the result
 */
function softmax(looks, p, without, weights) {
  let most = -Infinity;
  for (let k = 0; k < looks.length; k++) if (k !== without) most = Math.max(most, looks[k].logits[p]);
  let total = 0;
  for (let k = 0; k < looks.length; k++) {
    weights[k] = k === without ? 0 : Math.exp(looks[k].logits[p] - most);
    total += weights[k];
  }
  if (total > 0) for (let k = 0; k < looks.length; k++) weights[k] /= total;
}

/**
 * The mean of one colour of one pixel over slots.
 * @param {Appearance[]} looks
 * @param {Float64Array} weights
 * @param {number} at position in the planes of colours
 */
function mixed(looks, weights, at) {
  let sum = 0;
  for (let k = 0; k < looks.length; k++) sum += weights[k] * looks[k].colours[at];
  return sum;
}
