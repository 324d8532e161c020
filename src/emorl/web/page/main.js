// The page: what a person does, and what becomes of it.

import { Card } from "./card.js";
import { History } from "./history.js";
import { Mover } from "./mover.js";
import { Networks } from "./networks.js";
import { readPicture, saveFile } from "./pictures.js";
import { roomBeside } from "./scene.js";

/** @typedef {import("./card.js").Scene} Scene */
/** @typedef {import("./scene.js").Place} Place */
/** @typedef {import("./scene.js").Slot} Slot */
/** @typedef {import("./metadata").ExplorerFacts} ExplorerFacts */
/** @typedef {import("./metadata").Dimension} Dimension */

/**
 * Everything that undo brings back.
 * @typedef {object} State
 * @property {(Scene | null)[]} scenes two of them; null where none was opened yet
 * @property {number} active which of them
 */

/** Sliders that are shown at first. */
const FEW = 8;
/** Pixels that a dimension must move objects by for an arrow beside its name. */
const MOVES = 1.5;

/** @type {Networks} */
let networks;
/** @type {ExplorerFacts} */
let facts;
/** @type {Card[]} */
let cards = [];
/** @type {History<State>} */
const history = new History({ scenes: /** @type {(Scene | null)[]} */ ([null, null]), active: 0 });
/** @type {State | null} What is shown while a hand is still moving; it is not in the history yet. */
let moving = null;
let allDimensions = false;
let lastId = 0;
/** @type {Promise<unknown>} What was begun last of the things that take time and change a scene. */
let busy = Promise.resolve();

/** What is shown. */
export const state = () => moving ?? history.now;

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** @param {string} id */
const button = (id) => /** @type {HTMLButtonElement} */ (byId(id));

// ---------------------------------------------------------------------- state

const activeScene = () => state().scenes[state().active];

/** @param {Scene | null} scene */
const selectedIn = (scene) => scene?.slots.find((slot) => slot.id === scene.selected) ?? null;

/**
 * The state with one scene changed.
 * @param {number} which
 * @param {Partial<Scene>} change
 * @returns {State}
 */
function changed(which, change) {
  const scenes = state().scenes.map((scene, i) => (scene && i === which ? { ...scene, ...change } : scene));
  return { scenes, active: which };
}

/** @param {State} next */
function commit(next) {
  moving = null;
  history.push(next);
  draw();
}

/** @param {State} next */
function show(next) {
  moving = next;
  draw();
}

/** Keep what the hand has done, as one step of undo. */
function settle() {
  if (moving) commit(moving);
}

/**
 * Selecting is no change that undo should stop at.
 * @param {number} which
 * @param {number | null} id
 */
function select(which, id) {
  settle();
  history.states[history.at] = changed(which, { selected: id });
  draw();
}

/**
 * A slot with its own colour among others.
 * @param {Pick<Slot, "code" | "look">} slot
 * @param {Slot[]} others
 * @param {number} [id] a new one by default
 * @returns {Slot}
 */
function placed({ code, look }, others, id = ++lastId) {
  const taken = new Set(others.map((slot) => slot.hue));
  let hue = 0;
  while (taken.has(hue)) hue += 1;
  return { id, hue, code, look };
}

/**
 * @param {Slot[]} slots
 * @param {Slot} slot takes the place of the one of its id
 */
const replaced = (slots, slot) => slots.map((old) => (old.id === slot.id ? slot : old));

// ---------------------------------------------------------------------- what a person can do

/**
 * Things that take time and change a scene wait for each other, so that each begins from what the one before has left.
 * @param {() => Promise<void>} action
 * @returns {Promise<void>} is over when the action is
 */
function inTurn(action) {
  const done = busy.then(action);
  busy = done.catch(() => undefined);
  return done;
}

/**
 * Take a picture apart.
 * @param {string} name
 * @param {Float32Array} picture
 * @param {number} seed
 * @param {number} which scene it becomes
 */
async function decompose(name, picture, seed, which) {
  const codes = await networks.encode(picture, seed);
  const looks = await networks.decode(codes);
  /** @type {Slot[]} */
  const found = [];
  codes.forEach((code, k) => found.push(placed({ code, look: looks[k] }, found)));
  const scene = { name, picture, seed, found, slots: found, selected: null };
  const scenes = state().scenes.map((old, i) => (i === which ? scene : old));
  commit({ scenes, active: which });
}

/**
 * @param {Blob} file
 * @param {string} name
 * @param {number} which
 */
async function open(file, name, which = state().active) {
  say(`Taking ${name} apart…`);
  try {
    const { picture, note } = await readPicture(file, networks.height, networks.width);
    await decompose(name, picture, 0, which);
    say(`${name} is scene ${which + 1}. ${note}`);
  } catch (error) {
    say(`${name}: ${error instanceof Error ? error.message : error}`, true);
  }
}

/** @param {import("./metadata").Sample} sample */
async function openSample({ file, name }, which = state().active) {
  await inTurn(async () => open(await (await fetch(file)).blob(), name, which));
}

/** @param {number} which */
async function lookAgain(which) {
  const scene = state().scenes[which];
  if (!scene) return;
  await decompose(scene.name, scene.picture, scene.seed + 1, which);
  say(`Scene ${which + 1} from other random slots. Is it the same, another, or none that makes sense?`);
}

function remove() {
  const { scene, slot, which } = chosen();
  if (!scene || !slot) return;
  if (scene.slots.length === 1) return say("The last slot stays: a picture needs one.", true);
  const slots = scene.slots.filter((other) => other !== slot);
  commit(changed(which, { slots, selected: null }));
  say("Removed: the other slots fill its place.");
}

async function duplicate() {
  const { scene, slot, which } = chosen();
  if (!scene || !slot) return;
  const copy = placed(slot, scene.slots);
  const mover = moverOf(slot, scene.slots.filter((other) => other !== slot));
  if (mover?.place) {
    const seen = cards[which].places.filter((place, k) => place && scene.slots[k] !== slot);
    await mover.follow(roomBeside(mover.place, /** @type {Place[]} */ (seen), networks.width, networks.height));
    if (selectedIn(state().scenes[which]) !== slot) return; // it was changed meanwhile
    Object.assign(copy, { code: mover.code, look: mover.look });
  }
  commit(changed(which, { slots: [...scene.slots, copy], selected: copy.id }));
  say("Duplicated, and moved aside.");
}

function copyAcross() {
  const { slot, which } = chosen();
  const other = 1 - which;
  const target = state().scenes[other];
  if (!slot || !target) return;
  const copy = placed(slot, target.slots);
  commit(changed(other, { slots: [...target.slots, copy], selected: copy.id }));
  say(`Copied to scene ${other + 1}.`);
}

function swap() {
  const { scenes, active } = state();
  const [one, two] = scenes;
  const [from, to] = [selectedIn(one), selectedIn(two)];
  if (!one || !two || !from || !to) return;
  const [first, second] = [placed(to, without(one.slots, from)), placed(from, without(two.slots, to))];
  const swapped = [
    { ...one, slots: one.slots.map((slot) => (slot === from ? first : slot)), selected: first.id },
    { ...two, slots: two.slots.map((slot) => (slot === to ? second : slot)), selected: second.id },
  ];
  commit({ scenes: swapped, active });
  say("Swapped between the scenes.");
}

/**
 * @param {Slot[]} slots
 * @param {Slot} slot
 */
const without = (slots, slot) => slots.filter((other) => other !== slot);

function reset() {
  const scene = activeScene();
  if (!scene) return;
  commit(changed(state().active, { slots: scene.found, selected: null }));
  say(`Scene ${state().active + 1} as it was decomposed.`);
}

/** @param {"undo" | "redo"} way */
function travel(way) {
  settle();
  history[way]();
  draw();
}

/** The active scene and the slot that is selected in it. */
function chosen() {
  settle();
  const scene = activeScene();
  return { scene, slot: selectedIn(scene), which: state().active };
}

async function savePicture() {
  const blob = await new Promise((resolve) => cards[state().active].canvas.toBlob(resolve));
  saveFile(blob, `${fileStem()}.png`);
}

function saveCodes() {
  const scene = activeScene();
  if (!scene) return;
  const content = {
    weights: facts.title,
    model: networks.facts.model,
    emorl: networks.facts.emorl,
    picture: scene.name,
    size: networks.facts.size,
    seed: scene.seed,
    slots: scene.slots.map((slot) => Array.from(slot.code)),
  };
  saveFile(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }), `${fileStem()}.json`);
}

const fileStem = () => (activeScene()?.name ?? "scene").replace(/\.\w+$/, "").replace(/[^\p{L}\p{N}-]+/gu, "-");

// ---------------------------------------------------------------------- moving

/** @type {Mover | null} What moved an object last: moved again from there, it goes on by what it has learned of it. */
let lastMover = null;

/**
 * @param {Slot} slot
 * @param {Slot[]} others
 */
function moverOf({ code, look }, others) {
  const looks = others.map((other) => other.look);
  const known = lastMover?.code === code && lastMover.others.length === looks.length;
  if (known && lastMover?.others.every((other, i) => other === looks[i])) return lastMover;
  lastMover = facts.motion && new Mover(networks, facts.motion, looks, code, look);
  return lastMover;
}

/**
 * Moves the selected object of a scene: `goal` may be called again while it is still on its way. Every step is drawn.
 * @param {number} which
 */
function startMoving(which) {
  const scene = state().scenes[which];
  const slot = selectedIn(scene);
  if (!scene || !slot) return null;
  const mover = moverOf(slot, without(scene.slots, slot));
  if (!mover?.place || !mover.goal) return null;
  const start = { place: mover.place, goal: mover.goal };
  let held = slot;
  const moved = () => {
    const now = state().scenes[which];
    if (!now || selectedIn(now) !== held) return; // lost by the hand
    held = { ...held, code: mover.code, look: mover.look };
    show(changed(which, { slots: replaced(now.slots, held) }));
  };
  const goal = newestOnly(async (/** @type {Place} */ place, outdated) => {
    const inHand = () => selectedIn(state().scenes[which]) === held;
    if (!inHand()) return;
    const goOn = () => !outdated() && inHand();
    await mover.follow({ x: inside(place.x, networks.width), y: inside(place.y, networks.height) }, { moved, goOn });
  });
  return { start, goal };
}

/**
 * An object's centre stays in the picture.
 * @param {number} value
 * @param {number} length
 */
const inside = (value, length) => Math.min(length - 2, Math.max(1, value));

/**
 * A function that works on the newest of its arguments and skips those that came while it was busy.
 * @template T
 * @param {(value: T, outdated: () => boolean) => Promise<void>} work may ask whether a newer one has come
 * @returns {(value: T) => Promise<void>} is over when the newest is done
 */
function newestOnly(work) {
  /** @type {T[]} */
  let waiting = [];
  /** @type {Promise<void> | null} */
  let busy = null;
  const run = async () => {
    while (waiting.length) {
      const value = waiting[waiting.length - 1];
      waiting = [];
      await work(value, () => waiting.length > 0);
    }
    busy = null;
  };
  return (value) => {
    waiting.push(value);
    busy ??= run();
    return busy;
  };
}

/**
 * The hand on a scene: press to select, drag to move.
 * @param {Card} card
 * @param {number} which
 */
function listenToPointer(card, which) {
  card.stage.addEventListener("pointerdown", (event) => {
    const scene = state().scenes[which];
    if (!scene || event.button !== 0 || !event.isPrimary) return;
    const k = card.slotAt(card.pointAt(event));
    select(which, k < 0 ? null : scene.slots[k].id);
    if (k < 0) return say("Nothing is seen there that one slot alone makes.");
    const fixed = facts.motion ? "" : " Too few objects were seen at export to tell how codes move them: use the sliders.";
    say(`${card.nameOf(k)} is selected.${fixed}`);
    const motion = startMoving(which);
    if (!motion) return;
    const grip = card.pointAt(event);
    const start = motion.start.place;
    card.stage.setPointerCapture(event.pointerId);
    card.stage.classList.add("grabbing");
    let last = Promise.resolve();
    /** @param {PointerEvent} moved */
    const move = (moved) => {
      if (!moved.isPrimary) return; // a second finger
      const { x, y } = card.pointAt(moved);
      last = motion.goal({ x: start.x + x - grip.x, y: start.y + y - grip.y });
    };
    const ended = new AbortController();
    /** @param {PointerEvent} over */
    const end = async (over) => {
      if (!over.isPrimary) return;
      ended.abort();
      card.stage.classList.remove("grabbing");
      await last;
      settle();
    };
    card.stage.addEventListener("pointermove", move, { signal: ended.signal });
    card.stage.addEventListener("pointerup", end, { signal: ended.signal });
    card.stage.addEventListener("pointercancel", end, { signal: ended.signal });
  });
}

/** Steps of the arrow keys. @type {Record<string, Place>} */
const ARROWS = {
  ArrowLeft: { x: -1, y: 0 },
  ArrowRight: { x: 1, y: 0 },
  ArrowUp: { x: 0, y: -1 },
  ArrowDown: { x: 0, y: 1 },
};

/**
 * The keys of a scene that has the focus.
 * @param {Card} card
 * @param {number} which
 */
function listenToKeys(card, which) {
  /** @param {Place} step in pixels */
  const move = async (step) => {
    const motion = startMoving(which);
    const from = motion?.start.goal; // not where it is, or it would go astray step by step where it cannot follow
    if (from) await motion.goal({ x: from.x + step.x, y: from.y + step.y });
    settle();
  };
  card.stage.addEventListener("focus", () => select(which, state().scenes[which]?.selected ?? null));
  card.stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    const slots = state().scenes[which]?.slots ?? [];
    if (arrow) {
      event.preventDefault();
      const far = event.shiftKey ? 4 : 1;
      inTurn(() => move({ x: far * arrow.x, y: far * arrow.y })); // a held key comes again before it is done
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      remove();
    } else if (event.key.toLowerCase() === "d") {
      inTurn(duplicate);
    } else if (slots[Number(event.key) - 1]) {
      select(which, slots[Number(event.key) - 1].id);
    }
  });
}

// ---------------------------------------------------------------------- sliders

/** The sliders of the selected slot; they are made anew when another is selected. */
function drawDimensions() {
  const slot = selectedIn(activeScene());
  const box = byId("dimensions");
  byId("legend").hidden = !slot;
  button("more").hidden = !slot || facts.dimensions.length <= FEW;
  if (!slot) return box.replaceChildren();
  const shown = facts.dimensions.slice(0, allDimensions ? undefined : FEW);
  if (box.dataset.slot !== String(slot.id) || box.childElementCount !== shown.length) {
    box.dataset.slot = String(slot.id);
    box.replaceChildren(...shown.map((dimension) => slider(dimension, slot.id)));
  }
  for (const input of box.querySelectorAll("input")) {
    const value = slot.code[Number(input.dataset.index)];
    if (document.activeElement !== input || !moving) input.value = String(value);
    const told = input.parentElement?.querySelector(".value");
    if (told) told.textContent = value.toFixed(2);
  }
}

/**
 * @param {Dimension} dimension
 * @param {number} id of the slot
 */
function slider({ index, name, low, high, moves }, id) {
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: low, max: high, step: "any" });
  input.dataset.index = String(index);
  const turn = newestOnly(async (/** @type {number} */ value) => {
    const scene = activeScene();
    const slot = selectedIn(scene);
    if (!scene || slot?.id !== id) return;
    const code = slot.code.slice();
    code[index] = value;
    const [look] = await networks.decode([code]);
    if (selectedIn(activeScene()) !== slot) return; // another was selected meanwhile, or it was changed
    show(changed(state().active, { slots: replaced(scene.slots, { ...slot, code, look }) }));
  });
  let last = Promise.resolve();
  input.addEventListener("input", () => {
    last = turn(input.valueAsNumber);
  });
  input.addEventListener("change", async () => {
    await last;
    settle();
  });
  const row = document.createElement("label");
  row.className = "dimension";
  const text = document.createElement("span");
  text.textContent = `${name} ${arrowOf(moves)}`;
  const value = document.createElement("span");
  value.className = "value";
  row.append(text, value, input);
  return row;
}

/**
 * Where a dimension moves objects as it grows, as an arrow; empty where it does not.
 * @param {number[]} moves pixels to the right and down
 */
function arrowOf([x, y]) {
  if (Math.hypot(x, y) < MOVES) return "";
  const eighth = Math.round(Math.atan2(y, x) / (Math.PI / 4));
  return ["→", "↘", "↓", "↙", "←", "↖", "↑", "↗"][(eighth + 8) % 8];
}

// ---------------------------------------------------------------------- the page

/**
 * @param {string} text
 * @param {boolean} [bad]
 */
function say(text, bad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", bad);
}

function draw() {
  const { scenes, active } = state();
  cards.forEach((card, i) => {
    const scene = scenes[i];
    card.root.hidden = !scene;
    if (scene) card.draw(scene, i === active, (id) => select(i, id));
  });
  const scene = activeScene();
  const slot = selectedIn(scene);
  const position = slot && scene ? scene.slots.indexOf(slot) : -1;
  const name = slot && `${cards[active].nameOf(position)} of scene ${active + 1}`;
  byId("selected").textContent = name ?? "No object selected";
  button("undo").disabled = !history.canUndo && !moving;
  button("redo").disabled = !history.canRedo || moving !== null;
  button("reset").disabled = !scene || scene.slots === scene.found;
  for (const id of ["remove", "duplicate"]) button(id).disabled = !slot;
  button("copy").disabled = !slot || !scenes[1 - active];
  button("swap").disabled = !scenes.every(selectedIn);
  for (const id of ["save-picture", "save-codes"]) button(id).disabled = !scene;
  drawDimensions();
}

function listen() {
  /** @type {Record<string, () => unknown>} */
  const clicks = {
    undo: () => travel("undo"),
    redo: () => travel("redo"),
    reset,
    remove,
    duplicate: () => inTurn(duplicate),
    copy: copyAcross,
    swap,
    "save-picture": savePicture,
    "save-codes": saveCodes,
    more: () => {
      allDimensions = !allDimensions;
      button("more").setAttribute("aria-expanded", String(allDimensions));
      button("more").textContent = allDimensions ? "Most active only" : "All dimensions";
      drawDimensions();
    },
  };
  for (const [id, action] of Object.entries(clicks)) button(id).addEventListener("click", action);

  window.addEventListener("unhandledrejection", ({ reason }) => {
    say(`That did not work: ${reason?.message ?? reason}`, true);
  });

  const input = /** @type {HTMLInputElement} */ (byId("file"));
  input.addEventListener("change", async () => {
    const [file] = input.files ?? [];
    if (file) await inTurn(() => open(file, file.name));
    input.value = ""; // the same file can be chosen again
  });
  document.addEventListener("paste", (event) => openFirst(event.clipboardData, "pasted picture"));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    openFirst(event.dataTransfer, "dropped picture");
  });
  document.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    if (!(event.ctrlKey || event.metaKey) || !["z", "y"].includes(key)) return;
    event.preventDefault();
    travel(event.shiftKey || key === "y" ? "redo" : "undo");
  });
}

/**
 * @param {DataTransfer | null} given
 * @param {string} name where the file has none
 */
function openFirst(given, name) {
  const [file] = given?.files ?? [];
  if (file) inTurn(() => open(file, file.name || name));
}

/** @param {import("./metadata").Sample} sample */
function sampleButton(sample) {
  const element = document.createElement("button");
  element.type = "button";
  element.title = `Open ${sample.name} in the active scene`;
  const image = document.createElement("img");
  Object.assign(image, { src: sample.file, alt: sample.name });
  element.append(image);
  element.addEventListener("click", () => openSample(sample));
  return element;
}

async function start() {
  [facts, networks] = await Promise.all([
    fetch("explorer.json").then((answer) => answer.json()),
    Networks.load("model/"),
  ]);
  performance.mark("loaded");
  byId("title").textContent = facts.title;
  const { model, size, emorl } = networks.facts;
  byId("about").textContent = `${model}, ${size.join(" × ")} pixels, emorl ${emorl}`;
  byId("samples").replaceChildren(...facts.samples.map(sampleButton));
  cards = [1, 2].map((number) => new Card(number, networks.height, networks.width));
  byId("scenes").replaceChildren(...cards.map((card) => card.root));
  cards.forEach((card, which) => {
    listenToPointer(card, which);
    listenToKeys(card, which);
    card.again.hidden = !networks.draws;
    card.again.addEventListener("click", () => inTurn(() => lookAgain(which)));
  });
  listen();
  for (const [which, sample] of facts.samples.slice(0, 2).entries()) {
    await openSample(sample, which);
    performance.mark(`scene ${which + 1}`);
  }
  history.states = [{ ...history.now, active: 0 }]; // there is nothing before the samples to go back to
  history.at = 0;
  draw();
  say("Click an object in a reconstruction to select it; drag it to move it.");
}

start().catch((error) => say(`The explorer cannot start: ${error.message}`, true));
