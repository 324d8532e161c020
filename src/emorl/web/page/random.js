// Standard normal draws that a seed fixes.

/**
 * Box and Muller's transform of the generator "splitmix32".
 * @param {number} seed
 * @param {number} count
 * @returns {Float32Array}
 */
export function normals(seed, count) {
  let state = Math.imul(seed, 0x9e3779b9);
  const uniform = () => {
    state = (state + 0x9e3779b9) | 0;
    let bits = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    bits = Math.imul(bits ^ (bits >>> 15), 0x735a2d97);
    return (((bits ^ (bits >>> 15)) >>> 0) + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  });
}
