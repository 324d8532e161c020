// One scene on the page: its original, its reconstruction with outlines, and what each slot adds.

import { drawPicture } from "./pictures.js";
import { VISIBLE, border, centroid, mixture, owners, visible } from "./scene.js";

/** @typedef {import("./scene.js").Slot} Slot */
/** @typedef {import("./scene.js").Place} Place */

/**
 * @typedef {object} Scene
 * @property {string} name
 * @property {Float32Array} picture 3 H W: what was decomposed
 * @property {number} seed of the slots' beginning
 * @property {Slot[]} found as decomposed
 * @property {Slot[]} slots as edited
 * @property {number | null} selected id of a slot
 */

/** Okabe and Ito's colours without black, then some of Paul Tol's: the order of emorl's figures. */
const HUES = [
  ...["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"],
  ...["#332288", "#ddcc77", "#882255", "#ee6677", "#999933", "#117733", "#ffaabb"],
];
/** Pixels around an object that count as a hit. */
const REACH = 2;

/**
 * How opaque a visible pixel is drawn: clear from twice the bound on, and nothing where it is half of it.
 * @param {number} shown
 */
const clearer = (shown) => Math.min(1, Math.max(0, (shown / VISIBLE - 0.5) / 1.5));

/** @param {number} hue */
export const hueColour = (hue) => HUES[hue % HUES.length];

export class Card {
  /**
   * @param {number} number of the scene, from 1
   * @param {number} height
   * @param {number} width
   */
  constructor(number, height, width) {
    const template = /** @type {HTMLTemplateElement} */ (document.getElementById("scene"));
    this.root = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
    this.height = height;
    this.width = width;
    this.stage = part(this.root, ".stage", HTMLElement);
    this.again = part(this.root, ".again", HTMLButtonElement);
    this.objects = part(this.root, ".objects", HTMLElement);
    this.canvas = part(this.stage, "canvas", HTMLCanvasElement);
    this.number = number;
    part(this.root, "h2", HTMLElement).textContent = `Scene ${number}`;
    part(this.root, ".original", HTMLElement).setAttribute("aria-label", `Scene ${number}: original`);
    this.objects.setAttribute("aria-label", `Objects of scene ${number}`);
    this.stage.querySelector("svg")?.setAttribute("viewBox", `0 0 ${width} ${height}`);
    /** @type {Int16Array} Which slot each pixel belongs to. */
    this.labels = new Int16Array(height * width).fill(-1);
    /** @type {(Place | null)[]} Where each slot is seen. */
    this.places = [];
    /** @type {Scene | null} */
    this.drawn = null;
  }

  /**
   * @param {Scene} scene
   * @param {boolean} active
   * @param {(id: number) => void} choose is called with a slot's id
   */
  draw(scene, active, choose) {
    this.root.classList.toggle("active", active);
    if (this.drawn?.picture !== scene.picture) {
      drawPicture(part(this.root, ".original", HTMLCanvasElement), scene.picture, this.width);
    }
    const times = scene.seed ? `, look ${scene.seed + 1}` : "";
    part(this.root, ".name", HTMLElement).textContent = scene.name + times;
    if (this.drawn?.slots !== scene.slots || this.drawn.selected !== scene.selected) this.#drawSlots(scene, choose);
    this.drawn = scene;
  }

  /**
   * @param {Scene} scene
   * @param {(id: number) => void} choose
   */
  #drawSlots({ slots, selected }, choose) {
    const looks = slots.map((slot) => slot.look);
    drawPicture(this.canvas, mixture(looks), this.width);
    const shown = visible(looks);
    this.labels = owners(shown);
    this.places = shown.map((values) => centroid(values, this.width));
    this.#outline(slots, selected);
    const buttons = slots.map((slot, k) => this.#button(k, slot, shown[k], slot.id === selected, choose));
    while (this.objects.children.length > buttons.length) this.objects.lastElementChild?.remove();
    const seen = this.places.filter((place) => place).length;
    const chosen = slots.findIndex((slot) => slot.id === selected);
    const which = chosen < 0 ? "none selected" : `${this.nameOf(chosen)} selected`;
    this.stage.setAttribute("aria-label", `Scene ${this.number}: reconstruction with ${seen} objects, ${which}`);
  }

  /**
   * @param {Slot[]} slots
   * @param {number | null} selected
   */
  #outline(slots, selected) {
    const order = slots.map((_, k) => k).sort((a, b) => +(slots[a].id === selected) - +(slots[b].id === selected));
    const paths = order.flatMap((k) => {
      const chosen = slots[k].id === selected ? "chosen " : "";
      return ["halo", "outline"].map((kind) => {
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("class", chosen + kind);
        path.setAttribute("d", border(this.labels, k, this.width));
        if (kind === "outline") path.setAttribute("stroke", hueColour(slots[k].hue));
        return path;
      });
    });
    this.stage.querySelector("svg")?.replaceChildren(...paths);
  }

  /**
   * The button of slot k, made where it is not there yet.
   * @param {number} k
   * @param {Slot} slot
   * @param {Float32Array} shown
   * @param {boolean} selected
   * @param {(id: number) => void} choose
   */
  #button(k, slot, shown, selected, choose) {
    let button = /** @type {HTMLButtonElement | undefined} */ (this.objects.children[k]);
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.append(document.createElement("canvas"), document.createElement("span"));
      this.objects.append(button);
    }
    button.onclick = () => choose(slot.id);
    button.setAttribute("aria-pressed", String(selected));
    const place = this.places[k];
    const where = place ? `column ${Math.round(place.x)}, row ${Math.round(place.y)}` : "nothing to be seen";
    button.setAttribute("aria-label", `${this.nameOf(k)}: ${where}`);
    part(button, "span", HTMLElement).textContent = place ? this.nameOf(k) : `${k + 1}: nothing`;
    const canvas = part(button, "canvas", HTMLCanvasElement);
    canvas.style.borderBottomColor = hueColour(slot.hue);
    drawPicture(canvas, slot.look.colours, this.width, (p) => clearer(shown[p]));
    return button;
  }

  /** @param {number} k position of a slot */
  nameOf(k) {
    return `Object ${k + 1}`;
  }

  /**
   * The point of the picture under a pointer, in pixels; the centre of the first pixel is 0, 0.
   * @param {PointerEvent} event
   * @returns {Place}
   */
  pointAt(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.width - 0.5,
      y: ((event.clientY - box.top) / box.height) * this.height - 0.5,
    };
  }

  /**
   * Position of the slot at a point, or of one close by; -1 where there is none.
   * @param {Place} point
   */
  slotAt(point) {
    let nearest = REACH + 0.5;
    let found = -1;
    this.labels.forEach((k, p) => {
      const distance = Math.hypot((p % this.width) - point.x, Math.floor(p / this.width) - point.y);
      if (k >= 0 && distance < nearest) {
        nearest = distance;
        found = k;
      }
    });
    return found;
  }
}

/**
 * The first element inside another that a selector finds.
 * @template {Element} T
 * @param {Element} root
 * @param {string} selector
 * @param {new () => T} kind
 * @returns {T}
 */
function part(root, selector, kind) {
  const found = root.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`the page has no ${selector}`);
  return found;
}
