// What was, for undo and redo.

/** @template T */
export class History {
  /** @param {T} first */
  constructor(first) {
    /** @type {T[]} */
    this.states = [first];
    this.at = 0;
  }

  get now() {
    return this.states[this.at];
  }

  get canUndo() {
    return this.at > 0;
  }

  get canRedo() {
    return this.at < this.states.length - 1;
  }

  /** @param {T} state */
  push(state) {
    this.states = [...this.states.slice(0, this.at + 1), state];
    this.at += 1;
  }

  undo() {
    this.at = Math.max(0, this.at - 1);
  }

  redo() {
    this.at = Math.min(this.states.length - 1, this.at + 1);
  }
}
