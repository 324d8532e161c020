// The encoder and the decoder, run by onnxruntime-web.

import * as ort from "./ort/ort.wasm.min.js";
import { normals } from "./random.js";

/** @typedef {import("./metadata").ModelFacts} ModelFacts */
/** @typedef {import("./scene.js").Appearance} Appearance */

ort.env.wasm.wasmPaths = {
  mjs: new URL("./ort/ort-wasm-simd-threaded.js", import.meta.url).href,
  wasm: new URL("./ort/ort-wasm-simd-threaded.wasm", import.meta.url).href,
};
ort.env.wasm.proxy = true; // in a worker: the page draws and takes what the hand does while they run
/** Networks for fewer pixels run faster on one thread: waiting for each other costs more than the work. */
const THREADED_PIXELS = 64 * 64;

export class Networks {
  /**
   * @param {ModelFacts} facts
   * @param {ort.InferenceSession} encoder
   * @param {ort.InferenceSession} decoder
   */
  constructor(facts, encoder, decoder) {
    this.facts = facts;
    this.height = facts.size[0];
    this.width = facts.size[1];
    this.encoder = encoder;
    this.decoder = decoder;
    /** @type {Promise<unknown>} A session runs one thing at a time. */
    this.busy = Promise.resolve();
  }

  /** @param {string} folder address that ends with a slash */
  static async load(folder) {
    /** @type {ModelFacts} */
    const facts = await (await fetch(`${folder}model.json`)).json();
    // Pages that are not isolated from other sites may not share memory between threads.
    const threaded = globalThis.crossOriginIsolated && facts.size[0] * facts.size[1] >= THREADED_PIXELS;
    ort.env.wasm.numThreads = threaded ? Math.min(4, navigator.hardwareConcurrency) : 1;
    const [encoder, decoder] = await Promise.all([
      ort.InferenceSession.create(`${folder}encoder.onnx`),
      ort.InferenceSession.create(`${folder}decoder.onnx`),
    ]);
    return new Networks(facts, encoder, decoder);
  }

  /** Whether another seed can show another decomposition. */
  get draws() {
    return this.facts.noise !== null;
  }

  /**
   * The codes of a picture.
   * @param {Float32Array} picture 3 H W in [0, 1]
   * @param {number} seed of the draw that tells the slots apart
   * @returns {Promise<Float32Array[]>} K of D
   */
  async encode(picture, seed) {
    const { noise, slotDim } = this.facts;
    // The worker takes its feeds' memory, so what is needed again is copied.
    /** @type {Record<string, ort.Tensor>} */
    const feeds = { image: new ort.Tensor("float32", picture.slice(), [1, 3, this.height, this.width]) };
    if (noise) {
      const values = seed === 0 ? Float32Array.from(noise.values) : normals(seed, noise.values.length);
      feeds.noise = new ort.Tensor("float32", values, noise.shape);
    }
    const { slots } = await this.#run(this.encoder, feeds);
    return cut(slots, slotDim);
  }

  /**
   * What codes look like, each by itself.
   * @param {Float32Array[]} codes
   * @returns {Promise<Appearance[]>}
   */
  async decode(codes) {
    const { slotDim } = this.facts;
    const joined = new Float32Array(codes.length * slotDim);
    codes.forEach((code, i) => joined.set(code, i * slotDim));
    const slots = new ort.Tensor("float32", joined, [codes.length, slotDim]);
    const { logits, colours } = await this.#run(this.decoder, { slots });
    const numPixels = this.height * this.width;
    const coloursOf = cut(colours, 3 * numPixels);
    return cut(logits, numPixels).map((values, i) => ({ logits: values, colours: coloursOf[i] }));
  }

  /**
   * @param {ort.InferenceSession} session
   * @param {Record<string, ort.Tensor>} feeds
   */
  #run(session, feeds) {
    const result = this.busy.then(() => session.run(feeds));
    this.busy = result.catch(() => undefined);
    return result;
  }
}

/**
 * @param {ort.Tensor} tensor
 * @param {number} length
 */
function cut(tensor, length) {
  const data = /** @type {Float32Array} */ (tensor.data);
  return Array.from({ length: data.length / length }, (_, i) => data.slice(i * length, (i + 1) * length));
}
