import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtSession;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.Map;

/** Focal loss from Java: the C functions through the foreign function API, and the operator in ONNX Runtime. */
public class Example {
    static final float[][] LOGITS = {{2.0f, -1.0f, 0.5f}, {-3.0f, -2.0f, -4.0f}};
    static final long[] TARGETS = {0, 3}; // an object of class 0; background (K = 3)

    static double textbook() {
        double sum = 0;
        for (int i = 0; i < 2; i++) {
            for (int k = 0; k < 3; k++) {
                boolean positive = TARGETS[i] == k;
                double p = 1 / (1 + Math.exp(-LOGITS[i][k]));
                double right = positive ? p : 1 - p;
                sum -= (positive ? 0.25 : 0.75) * (1 - right) * (1 - right) * Math.log(right);
            }
        }
        return sum;
    }

    /** A `focal_loss_tensor` (DLPack's) on the CPU. The offsets are those of docs/abi.txt, which never change. */
    static MemorySegment tensor(Arena arena, MemorySegment data, int code, int bits, long... shape) {
        MemorySegment tensor = arena.allocate(48, 8);
        tensor.set(ValueLayout.ADDRESS, 0, data);
        tensor.set(ValueLayout.JAVA_INT, 8, 1); // FOCAL_LOSS_DEVICE_TYPE_CPU
        tensor.set(ValueLayout.JAVA_INT, 16, shape.length);
        tensor.set(ValueLayout.JAVA_BYTE, 20, (byte) code);
        tensor.set(ValueLayout.JAVA_BYTE, 21, (byte) bits);
        tensor.set(ValueLayout.JAVA_SHORT, 22, (short) 1);
        tensor.set(ValueLayout.ADDRESS, 24, arena.allocateFrom(ValueLayout.JAVA_LONG, shape));
        return tensor;
    }

    static double throughC(String library) throws Throwable {
        try (Arena arena = Arena.ofConfined()) {
            SymbolLookup symbols = SymbolLookup.libraryLookup(library, arena);
            Linker linker = Linker.nativeLinker();
            MethodHandle init = linker.downcallHandle(
                    symbols.find("focal_loss_options_init").orElseThrow(),
                    FunctionDescriptor.ofVoid(ValueLayout.ADDRESS));
            MethodHandle forward = linker.downcallHandle(
                    symbols.find("focal_loss_forward").orElseThrow(),
                    FunctionDescriptor.of(ValueLayout.JAVA_INT, ValueLayout.ADDRESS, ValueLayout.ADDRESS, ValueLayout.ADDRESS));
            MethodHandle message = linker.downcallHandle(
                    symbols.find("focal_loss_last_error_message").orElseThrow(),
                    FunctionDescriptor.of(ValueLayout.ADDRESS));

            MemorySegment options = arena.allocate(88, 8);
            init.invokeExact(options);
            options.set(ValueLayout.JAVA_INT, 32, 1); // FOCAL_LOSS_REDUCTION_SUM

            MemorySegment logits = arena.allocate(6 * Float.BYTES, 4);
            for (int i = 0; i < 6; i++) {
                logits.setAtIndex(ValueLayout.JAVA_FLOAT, i, LOGITS[i / 3][i % 3]);
            }
            MemorySegment inputs = arena.allocate(48, 8);
            inputs.set(ValueLayout.JAVA_LONG, 0, 48);
            inputs.set(ValueLayout.ADDRESS, 8, tensor(arena, logits, 2, 32, 2, 3)); // 2: FOCAL_LOSS_DTYPE_CODE_FLOAT
            inputs.set(ValueLayout.ADDRESS, 16, tensor(arena, arena.allocateFrom(ValueLayout.JAVA_LONG, TARGETS), 0, 64, 2));
            MemorySegment loss = arena.allocate(ValueLayout.JAVA_FLOAT);
            int status = (int) forward.invokeExact(options, inputs, tensor(arena, loss, 2, 32));
            if (status != 0) {
                throw new IllegalArgumentException(
                        ((MemorySegment) message.invokeExact()).reinterpret(Long.MAX_VALUE).getString(0));
            }
            return loss.get(ValueLayout.JAVA_FLOAT, 0);
        }
    }

    static double inOnnxRuntime(String library, String model) throws Exception {
        OrtEnvironment environment = OrtEnvironment.getEnvironment();
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            options.registerCustomOpLibrary(library);
            try (OrtSession session = environment.createSession(model, options);
                    OnnxTensor logits = OnnxTensor.createTensor(environment, LOGITS);
                    OnnxTensor targets = OnnxTensor.createTensor(environment, TARGETS);
                    OrtSession.Result result = session.run(Map.of("features", logits, "targets", targets))) {
                return (float) result.get("loss").orElseThrow().getValue();
            }
        }
    }

    public static void main(String[] arguments) throws Throwable {
        double expected = textbook();
        double[] losses = {throughC(arguments[0]), inOnnxRuntime(arguments[0], arguments[1])};
        System.out.printf("through C: %.9g, the operator: %.9g, by the textbook %.9g%n", losses[0], losses[1], expected);
        for (double loss : losses) {
            if (!(Math.abs(loss - expected) <= 1e-6 * expected)) {
                throw new AssertionError("the loss is wrong");
            }
        }
    }
}
