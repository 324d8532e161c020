// What the export tells the page. Written by networks.py and export.py; this is its one description.

/** model/model.json */
export interface ModelFacts {
  /** The model's name, as in presets. */
  model: string;
  /** Version of emorl that exported it. */
  emorl: string;
  /** Height and width of pictures, in pixels. */
  size: number[];
  /** Slots that a picture falls into. */
  numSlots: number;
  /** Dimensions of a slot's code. */
  slotDim: number;
  /** The encoder's draw of seed 0; null for a model that draws nothing. */
  noise: { shape: number[]; values: number[] } | null;
}

/** One dimension of a slot's code. */
export interface Dimension {
  /** Its position in the code. */
  index: number;
  /** The position, and the factors of the data that it serves where they are known. */
  name: string;
  /** Least and greatest value in the data. */
  low: number;
  high: number;
  /** Pixels to the right and down by which one standard deviation moves an object. */
  moves: number[];
}

/** How a code goes when its object moves: `Motion` in handles.py says more. */
export interface Motion {
  /** Column and row, in pixels, where u and w are 0. */
  low: number[];
  /** Where they are 1. */
  high: number[];
  /** Changes of the code with u, w, u², u w, w². */
  curve: number[][];
}

/** A scene to begin with. */
export interface Sample {
  file: string;
  name: string;
}

/** explorer.json */
export interface ExplorerFacts {
  /** What the weights are called. */
  title: string;
  /** Most active first. */
  dimensions: Dimension[];
  /** Null where none was found. */
  motion: Motion | null;
  samples: Sample[];
}
