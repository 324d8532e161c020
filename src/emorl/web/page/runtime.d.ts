// The runtime's module stands in ort/ of an exported folder; here only its types are known.
declare module "*/ort.wasm.min.js" {
  export * from "onnxruntime-web/wasm";
}
