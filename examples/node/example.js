// Focal loss from Node.js: the C functions through koffi, and a model in ONNX Runtime, whose binding for Node.js has no way
// to register libraries of operators: there the model's own portable function computes the loss.
import koffi from "koffi";
import ort from "onnxruntime-node";

const [library, model] = process.argv.slice(2);
const logits = new Float32Array([2, -1, 0.5, -3, -2, -4]);
const targets = new BigInt64Array([0n, 3n]); // an object of class 0; background (K = 3)

const expected = logits.reduce((sum, x, i) => {
  const positive = targets[Math.floor(i / 3)] === BigInt(i % 3);
  const p = 1 / (1 + Math.exp(-x));
  const right = positive ? p : 1 - p;
  return sum - (positive ? 0.25 : 0.75) * (1 - right) ** 2 * Math.log(right);
}, 0);

// The structs of focal_loss.h.
koffi.struct("focal_loss_options", {
  struct_size: "size_t", activation: "int32_t", alpha: "double", gamma: "double", reduction: "int32_t",
  normalization: "int32_t", axis: "int32_t", has_ignore_index: "int32_t", ignore_index: "int64_t",
  has_background_index: "int32_t", background_index: "int64_t", num_threads: "int32_t", stream: "void *",
});
koffi.struct("focal_loss_tensor", {
  data: "void *", device_type: "int32_t", device_id: "int32_t", ndim: "int32_t", code: "uint8_t", bits: "uint8_t",
  lanes: "uint16_t", shape: "int64_t *", strides: "int64_t *", byte_offset: "uint64_t",
});
const inputs_type = koffi.struct("focal_loss_inputs", {
  struct_size: "size_t", logits: "focal_loss_tensor *", targets: "focal_loss_tensor *",
  class_alpha: "focal_loss_tensor *", weight: "focal_loss_tensor *", normalizer: "focal_loss_tensor *",
});
const focal_loss = koffi.load(library);
const options_init = focal_loss.func("void focal_loss_options_init(_Out_ focal_loss_options *options)");
const forward = focal_loss.func(
  "int32_t focal_loss_forward(focal_loss_options *options, focal_loss_inputs *inputs, focal_loss_tensor *loss)");
const message = focal_loss.func("const char *focal_loss_last_error_message()");

function tensor(data, code, bits, shape) {
  const device_type = 1; // FOCAL_LOSS_DEVICE_TYPE_CPU
  return { data, device_type, device_id: 0, ndim: shape.length, code, bits, lanes: 1,
           shape: new BigInt64Array(shape), strides: null, byte_offset: 0 };
}
const FLOAT = 2, INT = 0; // FOCAL_LOSS_DTYPE_CODE_*

const options = {};
options_init(options);
options.reduction = 1; // FOCAL_LOSS_REDUCTION_SUM
const loss = new Float32Array(1);
const inputs = {
  struct_size: koffi.sizeof(inputs_type), logits: tensor(logits, FLOAT, 32, [2n, 3n]), targets: tensor(targets, INT, 64, [2n]),
  class_alpha: null, weight: null, normalizer: null,
};
if (forward(options, inputs, tensor(loss, FLOAT, 32, [])) !== 0) throw new Error(message());

const session = await ort.InferenceSession.create(model);
const result = await session.run({
  features: new ort.Tensor("float32", logits, [2, 3]), targets: new ort.Tensor("int64", targets, [2]),
});
const portable = result.loss.data[0];

console.log(`the library: ${loss[0]}, the portable function: ${portable}, by the textbook ${expected}`);
for (const value of [loss[0], portable]) {
  if (!(Math.abs(value - expected) <= 2e-6 * expected)) throw new Error("the loss is wrong");
}
