"""A host with a CUDA provider, as far as the operators see one: ONNX Runtime's function table, made of Python callbacks.

ONNX Runtime's own provider does not start without a GPU. Here its part is played: `RegisterCustomOps` is called, the
operators' tables are kept, nodes are made and run with tensors in memory that the stub of the driver takes for a
device's. Entries that the library should not need are left out; to call one ends the process.
"""

import ctypes
import dataclasses

import numpy as np
from places import fl

P, I32, I64, SIZE = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_size_t

#: Where entries are in OrtApi. Entries keep their places in all versions.
ENTRIES = {
    "CreateStatus": 0, "GetErrorMessage": 2, "CreateCustomOpDomain": 26, "CustomOpDomain_Add": 27,
    "AddCustomOpDomain": 28, "GetTensorMutableData": 51, "GetDimensionsCount": 61, "GetDimensions": 62,
    "GetTensorTypeAndShape": 65, "MemoryInfoGetId": 72, "KernelInfoGetAttribute_float": 85,
    "KernelInfoGetAttribute_int64": 86, "KernelInfoGetAttribute_string": 87, "KernelContext_GetInputCount": 88,
    "KernelContext_GetInput": 90, "KernelContext_GetOutput": 91, "ReleaseStatus": 93,
    "ReleaseTensorTypeAndShapeInfo": 99, "AddSessionConfigEntry": 130, "KernelInfoGetAttributeArray_float": 162,
    "KernelInfoGetAttributeArray_int64": 163, "KernelContext_GetGPUComputeStream": 193, "GetTensorMemoryInfo": 194,
    "KernelInfo_GetInputCount": 230, "HasSessionConfigEntry": 237, "KernelInfo_GetNodeName": 244,
}  # fmt: skip


class CustomOp(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32)] + [
        (name, P) for name in (
            "CreateKernel", "GetName", "GetExecutionProviderType", "GetInputType", "GetInputTypeCount", "GetOutputType",
            "GetOutputTypeCount", "KernelCompute", "KernelDestroy", "GetInputCharacteristic", "GetOutputCharacteristic",
            "GetInputMemoryType", "GetVariadicInputMinArity", "GetVariadicInputHomogeneity", "GetVariadicOutputMinArity",
            "GetVariadicOutputHomogeneity", "CreateKernelV2", "KernelComputeV2", "InferOutputShapeFn", "GetStartVersion",
            "GetEndVersion",
        )
    ]  # fmt: skip


ELEMENT = {"float32": 1, "int32": 6, "int64": 7, "float16": 10, "float64": 11, "bfloat16": 16}


@dataclasses.dataclass
class Operator:
    """An entry that the library registered."""

    table: ctypes.POINTER(CustomOp)
    name: str
    provider: str
    types: tuple


class Failure(Exception):
    pass


class Host:
    def __init__(self):
        self.operators, self.held, self.objects = [], [], {}
        self.api = (P * 300)()
        for name, index in ENTRIES.items():
            method = getattr(self, name)
            callback = ctypes.CFUNCTYPE(P, *method.__annotations__.values())(self._guarded(method))
            self.held.append(callback)
            self.api[index] = ctypes.cast(callback, P)
        version = ctypes.CFUNCTYPE(P)(lambda: ctypes.cast(b"1.30.0", P).value)
        get_api = ctypes.CFUNCTYPE(P, ctypes.c_uint32)(lambda wanted: ctypes.addressof(self.api) if wanted <= 17 else None)
        self.base = (P * 2)(ctypes.cast(get_api, P), ctypes.cast(version, P))
        self.held += [version, get_api]
        self.marked = False

    def register(self, library):
        library.lib.RegisterCustomOps.restype, library.lib.RegisterCustomOps.argtypes = P, [P, P]
        self.check(library.lib.RegisterCustomOps(self.handle("options"), ctypes.addressof(self.base)))

    # Python objects as handles.

    def handle(self, thing):
        handle = len(self.objects) + 0x1000
        self.objects[handle] = thing
        return handle

    def _guarded(self, method):
        def call(*arguments):
            try:
                return method(*arguments)
            except Failure as failure:
                return self.handle(str(failure).encode())

        return call

    def check(self, status):
        if status:
            raise Failure(self.objects.pop(status).decode())

    @staticmethod
    def put(place, value, kind=P):
        ctypes.cast(place, ctypes.POINTER(kind))[0] = value

    # The table's entries, which return a status or nothing.

    def CreateStatus(self, code: I32, message: ctypes.c_char_p):
        return self.handle(message)

    def GetErrorMessage(self, status: P):
        return ctypes.cast(self.objects[status], P).value

    def ReleaseStatus(self, status: P):
        del self.objects[status]

    def HasSessionConfigEntry(self, options: P, key: ctypes.c_char_p, out: P):
        self.put(out, int(self.marked), I32)

    def AddSessionConfigEntry(self, options: P, key: ctypes.c_char_p, value: ctypes.c_char_p):
        self.marked = True

    def CreateCustomOpDomain(self, name: ctypes.c_char_p, out: P):
        self.put(out, self.handle(name))

    def AddCustomOpDomain(self, options: P, domain: P):
        pass

    def CustomOpDomain_Add(self, domain: P, op: P):
        table = ctypes.cast(op, ctypes.POINTER(CustomOp))
        text = lambda function: ctypes.CFUNCTYPE(ctypes.c_char_p, P)(getattr(table.contents, function))(op).decode()
        count = ctypes.CFUNCTYPE(SIZE, P)(table.contents.GetInputTypeCount)(op)
        kind = ctypes.CFUNCTYPE(I32, P, SIZE)(table.contents.GetInputType)
        types = tuple(kind(op, i) for i in range(count))
        self.operators.append(Operator(table, text("GetName"), text("GetExecutionProviderType"), types))

    def attribute(self, info, name, kinds):
        value = self.objects[info]["attributes"].get(name.decode())
        if value is None:
            raise Failure(f"No attribute with name:'{name.decode()}'is defined.")
        if not isinstance(value, kinds):
            raise Failure("Attribute name and type don't match")
        return value

    def KernelInfoGetAttribute_float(self, info: P, name: ctypes.c_char_p, out: P):
        self.put(out, self.attribute(info, name, float), ctypes.c_float)

    def KernelInfoGetAttribute_int64(self, info: P, name: ctypes.c_char_p, out: P):
        self.put(out, self.attribute(info, name, int), I64)

    def KernelInfoGetAttribute_string(self, info: P, name: ctypes.c_char_p, out: P, size: P):
        self._text(self.attribute(info, name, str), out, size)

    def KernelInfoGetAttributeArray_float(self, info: P, name: ctypes.c_char_p, out: P, size: P):
        raise Failure("no array")

    def KernelInfoGetAttributeArray_int64(self, info: P, name: ctypes.c_char_p, out: P, size: P):
        raise Failure("no array")

    def KernelInfo_GetNodeName(self, info: P, out: P, size: P):
        self._text("node_under_test", out, size)

    def KernelInfo_GetInputCount(self, info: P, out: P):
        self.put(out, 0, SIZE)  # shapes are not known before the run

    def _text(self, text, out, size):
        content = text.encode() + b"\0"
        self.put(size, len(content), SIZE)
        if out:
            ctypes.memmove(out, content, len(content))

    def KernelContext_GetInputCount(self, context: P, out: P):
        self.put(out, len(self.objects[context]["inputs"]), SIZE)

    def KernelContext_GetInput(self, context: P, index: SIZE, out: P):
        self.put(out, self.objects[context]["inputs"][index])

    def KernelContext_GetOutput(self, context: P, index: SIZE, sizes: P, rank: SIZE, out: P):
        run = self.objects[context]
        shape = ctypes.cast(sizes, ctypes.POINTER(I64))[:rank]
        run["output"] = np.full(shape, 77, run["dtype"])
        self.put(out, self.value(run["output"], run["memory"]))

    def KernelContext_GetGPUComputeStream(self, context: P, out: P):
        self.put(out, self.objects[context]["stream"])

    def value(self, array, memory):
        view = memory.tensor(array)
        return self.handle(dict(array=array, view=view))

    def GetTensorTypeAndShape(self, value: P, out: P):
        self.put(out, self.handle(self.objects[value]["array"].shape))

    def ReleaseTensorTypeAndShapeInfo(self, info: P):
        del self.objects[info]

    def GetDimensionsCount(self, info: P, out: P):
        self.put(out, len(self.objects[info]), SIZE)

    def GetDimensions(self, info: P, out: P, count: SIZE):
        for axis, length in enumerate(self.objects[info][:count]):
            ctypes.cast(out, ctypes.POINTER(I64))[axis] = length

    def GetTensorMutableData(self, value: P, out: P):
        self.put(out, self.objects[value]["array"].ctypes.data)

    def GetTensorMemoryInfo(self, value: P, out: P):
        self.put(out, value)

    def MemoryInfoGetId(self, memory: P, out: P):
        self.put(out, self.objects[memory]["view"].device.device_id, I32)

    # What a session does.

    def find(self, name, provider, dtype="float32", targets="int64"):
        gradient = name.endswith("Grad")
        types = (ELEMENT[dtype],) * (1 + gradient) + (ELEMENT[targets],) + (ELEMENT[dtype],) * 3
        (found,) = [o for o in self.operators if (o.name, o.provider, o.types) == (name, provider, types)]
        return found

    def make(self, operator, **attributes):
        info, kernel = self.handle(dict(attributes=attributes)), P()
        create = ctypes.CFUNCTYPE(P, P, P, P, P)(operator.table.contents.CreateKernelV2)
        self.check(create(ctypes.cast(operator.table, P), ctypes.addressof(self.api), info, ctypes.addressof(kernel)))
        return kernel

    def run(self, operator, kernel, inputs, memory, stream=None):
        dtype = inputs[0].dtype
        values = [None if array is None else self.value(array, memory) for array in inputs]
        run = dict(inputs=values, dtype=dtype, memory=memory, stream=stream)
        compute = ctypes.CFUNCTYPE(P, P, P)(operator.table.contents.KernelComputeV2)
        self.check(compute(kernel, self.handle(run)))
        return run["output"]

    def destroy(self, operator, kernel):
        ctypes.CFUNCTYPE(None, P)(operator.table.contents.KernelDestroy)(kernel)


def host():
    made = Host()
    made.register(fl.Library())
    return made
