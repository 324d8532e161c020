// Pictures between files, canvases and planes of floats.

/** Larger pictures are refused before they are decoded: a small file can claim any size. */
const MAX_PIXELS = 2 ** 26;

/**
 * Reads a picture a person gave: the largest centred window of the wanted shape, at the wanted size, over black.
 * @param {Blob} file
 * @param {number} height
 * @param {number} width
 * @returns {Promise<{ picture: Float32Array, note: string }>} 3 H W, and what should be said of it
 * @throws {Error} with one line for the person
 */
export async function readPicture(file, height, width) {
  if (file.size === 0) throw new Error("the file is empty: choose a picture");
  const address = URL.createObjectURL(file);
  try {
    const image = new Image();
    image.src = address;
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error("the file is no picture that this browser can read: choose PNG or JPEG"));
    });
    const { naturalWidth: w, naturalHeight: h } = image;
    if (w * h > MAX_PIXELS) throw new Error(`the picture has ${w} x ${h} pixels, which is too many: make it smaller`);
    if (w * h === 0) throw new Error("the picture has no size of its own: save it as PNG");
    const scale = Math.min(w / width, h / height);
    const [cutWidth, cutHeight] = [width * scale, height * scale];
    const context = canvas(height, width);
    context.imageSmoothingQuality = "high";
    context.fillRect(0, 0, width, height);
    context.drawImage(image, (w - cutWidth) / 2, (h - cutHeight) / 2, cutWidth, cutHeight, 0, 0, width, height);
    const bytes = context.getImageData(0, 0, width, height).data;
    const note = (await isAnimated(file)) ? "It is an animation: this is its first picture." : "";
    return { picture: toPlanes(bytes), note };
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** @param {Blob} file */
async function isAnimated(file) {
  if (!("ImageDecoder" in globalThis) || !file.type || !(await ImageDecoder.isTypeSupported(file.type))) return false;
  const decoder = new ImageDecoder({ data: file.stream(), type: file.type });
  try {
    await decoder.tracks.ready;
    return decoder.tracks.selectedTrack?.animated ?? false;
  } catch {
    return false; // it was shown already: what is wrong further in does not matter
  } finally {
    decoder.close();
  }
}

/**
 * @param {number} height
 * @param {number} width
 */
function canvas(height, width) {
  const element = document.createElement("canvas");
  Object.assign(element, { height, width });
  return /** @type {CanvasRenderingContext2D} */ (element.getContext("2d", { willReadFrequently: true }));
}

/** @param {Uint8ClampedArray} bytes H W 4 */
function toPlanes(bytes) {
  const numPixels = bytes.length / 4;
  const planes = new Float32Array(3 * numPixels);
  for (let p = 0; p < numPixels; p++) for (let c = 0; c < 3; c++) planes[c * numPixels + p] = bytes[4 * p + c] / 255;
  return planes;
}

/**
 * Draws planes on a canvas, which takes their size.
 * @param {HTMLCanvasElement} element
 * @param {Float32Array} picture 3 H W in [0, 1]
 * @param {number} width
 * @param {(p: number) => number} opacity of a pixel, in [0, 1]
 */
export function drawPicture(element, picture, width, opacity = () => 1) {
  const numPixels = picture.length / 3;
  const image = new ImageData(width, numPixels / width);
  for (let p = 0; p < numPixels; p++) {
    for (let c = 0; c < 3; c++) image.data[4 * p + c] = 255 * picture[c * numPixels + p];
    image.data[4 * p + 3] = 255 * opacity(p);
  }
  if (element.width !== width || element.height !== image.height) {
    Object.assign(element, { width, height: image.height });
  }
  element.getContext("2d")?.putImageData(image, 0, 0);
}

/**
 * Lets the browser save a file.
 * @param {Blob} content
 * @param {string} name
 */
export function saveFile(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000); // the download has to begin first
}
