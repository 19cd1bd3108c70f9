"""The same losses by PyTorch, torchvision and JAX, where they are installed, and the operators in ONNX Runtime."""

import functools
import importlib.util
import itertools
import sys
import threading
import time

import numpy as np
import onnxruntime as ort
from focal_loss_onnx import add_functions
from measure import PAUSE, Entry
from onnx import TensorProto, helper
from ort_models import library_path, make_model


def installed(*modules):
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        print(f"{', '.join(missing)} not installed: those rows are left out", file=sys.stderr, flush=True)
    return not missing


def torch_entries(problem, threads):
    """torchvision's sigmoid focal loss, or PyTorch's cross entropy, forward and with its backward."""
    if not installed("torch", "torchvision"):
        return []
    import torch
    import torchvision

    torch.set_num_threads(threads)
    torch._dynamo.reset()  # compiled anew for each shape, without a limit on how many
    if problem.activation == "sigmoid":
        targets, gamma = problem.dense, 2.0

        def loss(logits, targets):
            return torchvision.ops.sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0, reduction="sum")
    else:
        targets, gamma = problem.indices, 0.0

        def loss(logits, targets):
            return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    def forward(function, logits, targets):
        with torch.no_grad():
            return function(logits, targets), None

    def fused(function, logits, targets):
        logits.grad = None
        result = function(logits, targets)
        result.backward()
        return result.detach(), logits.grad

    entries = []
    for way in ("eager", "compiled"):
        function = loss if way == "eager" else torch.compile(loss, dynamic=False)
        for what, run in (("forward", forward), ("forward+backward", fused)):
            calls = []
            for x, t in zip(problem.logits, targets, strict=True):
                leaf = torch.from_numpy(x).requires_grad_(run is fused)
                calls.append(functools.partial(run, function, leaf, torch.from_numpy(t)))
            entries.append(Entry(f"torch {way} {what}", calls, calls[0], problem.expected(gamma), problem.elements))
    return entries


def optax_entries(problem):
    """optax's sigmoid focal loss and jax's gradient of it, compiled by jax.jit."""
    if not installed("jax", "optax"):
        return []
    import jax
    import optax

    def loss(logits, targets):
        return optax.sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0).sum()

    def forward(function, *inputs):
        return jax.block_until_ready(function(*inputs)), None

    def fused(function, *inputs):
        return jax.block_until_ready(function(*inputs))

    entries = []
    inputs = [tuple(map(jax.numpy.asarray, pair)) for pair in zip(problem.logits, problem.dense, strict=True)]
    for what, run, function in (("forward", forward, loss), ("forward+backward", fused, jax.value_and_grad(loss))):
        compiled = jax.jit(function)
        calls = [functools.partial(run, compiled, *pair) for pair in inputs]
        entries.append(Entry(f"optax {what}", calls, calls[0], problem.expected(), problem.elements))
    return entries


def session(model, threads, library=True, spinning=True):
    """Threads that stop spinning when nothing runs, for they would take the processor from whoever is timed next."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    if library:
        options.register_custom_ops_library(library_path())
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def operator_model(operator):
    """Of one operator that sums, carrying its function."""
    shapes = {"logits": ["rows", "classes"], "targets": ["rows"], "grad_loss": []}
    return add_functions(make_model(operator, shapes=shapes, reduction="sum"))


def host_model(*operators):
    """A chain of operators of ONNX Runtime's own, with our operator's inputs."""
    names = ["logits", *(f"after_{operator}" for operator in operators[:-1]), "result"]
    nodes = [
        helper.make_node(operator, [a], [b], **({"keepdims": 0} if operator == "ReduceSum" else {}))
        for operator, (a, b) in zip(operators, itertools.pairwise(names), strict=True)
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "classes"])
    targets = helper.make_tensor_value_info("targets", TensorProto.INT64, ["rows"])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "host", [logits, targets], [result])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def feeds(problem, copy, operator):
    given = {"logits": problem.logits[copy], "targets": problem.indices[copy]}
    return {"grad_loss": np.ones((), np.float32), **given} if operator.endswith("Grad") else given


def operator_entries(problem, threads):
    """The loss and its gradient by our kernel and by the function that the model carries."""
    entries = []
    for operator, what in (("SigmoidFocalLoss", "loss"), ("SigmoidFocalLossGrad", "gradient")):
        model = operator_model(operator)
        for way, library in (("operator", True), ("function", False)):
            run = session(model, threads, library).run
            calls = [functools.partial(run, None, feeds(problem, copy, operator)) for copy in range(problem.copies)]

            def result(call=calls[0], what=what):
                (value,) = call()
                return (value, None) if what == "loss" else (None, value)

            entries.append(Entry(f"ONNX Runtime {way}, {what}", calls, result, problem.expected(), problem.elements))
    return entries


def node_entries(problem):
    """One node that does next to nothing, and ours on a single row. Bound, so that Python has nothing to convert."""
    models = {"Identity": host_model("Identity"), "operator": operator_model("SigmoidFocalLoss")}
    entries = []
    for name, model in models.items():
        runner = session(model, 1)
        binding = runner.io_binding()
        for key, array in feeds(problem, 0, "").items():
            binding.bind_cpu_input(key, array)
        binding.bind_output("result")
        call = functools.partial(runner.run_with_iobinding, binding)

        def result(call=call, binding=binding):
            call()
            (value,) = binding.copy_outputs_to_cpu()
            return (value, None) if value.size == 1 else (None, value)

        expected = (None, problem.block) if name == "Identity" else problem.expected()
        entries.append(Entry(f"a row in ONNX Runtime, {name}", [call], result, expected, problem.elements))
    return entries


CONCURRENT = 8


def concurrency(problem, timer):
    """What a session's threads are worth, and eight concurrent calls where it has one, for ours and the host's own.

    Rows of: name, seconds with one and with two threads, processor time per time with each, throughput of eight
    concurrent calls relative to one after the other.
    """
    models = {
        "SigmoidFocalLoss": operator_model("SigmoidFocalLoss"),
        "Sigmoid, ReduceSum": host_model("Sigmoid", "ReduceSum"),
        "Softmax": host_model("Softmax"),
    }
    inputs = [feeds(problem, copy, "") for copy in range(problem.copies)]
    # Spinning would be counted as work.
    sessions = {name: [session(model, threads, spinning=False) for threads in (1, 2)] for name, model in models.items()}
    (loss,) = sessions["SigmoidFocalLoss"][1].run(None, inputs[0])
    assert abs(loss / problem.expected()[0] - 1) < 1e-4

    measured = {name: [] for name in models}
    for _ in range(timer.repetitions):
        for name, (one, two) in sessions.items():
            times = (*_clocks(one, inputs), *_clocks(two, inputs))
            measured[name].append((*times, _clocks(one, inputs, CONCURRENT)[0], _all_at_once(one, inputs)))
    rows = []
    for name, numbers in measured.items():
        one, busy_one, two, busy_two, one_by_one, together = np.array(numbers).T
        busy = (busy_one.sum() / one.sum(), busy_two.sum() / two.sum())
        rows.append((name, one.min(), two.min(), *busy, one_by_one.min() / together.min()))
        print(
            f"{name} in ONNX Runtime: {one.min() / two.min():.2f} times as fast on two threads, "
            f"{rows[-1][-1]:.2f} times with {CONCURRENT} calls at once",
            file=sys.stderr,
            flush=True,
        )
    return rows


def _clocks(runner, inputs, calls=2):
    """Seconds of time and of processor time per call, after one that warms up."""
    time.sleep(PAUSE)
    runner.run(None, inputs[-1])
    begin, busy = time.perf_counter(), time.process_time()
    for call in range(calls):
        runner.run(None, inputs[call % len(inputs)])
    return (time.perf_counter() - begin) / calls, (time.process_time() - busy) / calls


def _all_at_once(runner, inputs, each=2):
    """Seconds per call, of threads that start together and make some calls each."""
    barrier = threading.Barrier(CONCURRENT + 1)

    def work(thread):
        barrier.wait()
        for call in range(each):
            runner.run(None, inputs[(thread + call) % len(inputs)])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(CONCURRENT)]
    for thread in threads:
        thread.start()
    begin = time.perf_counter()
    barrier.wait()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - begin) / (CONCURRENT * each)
