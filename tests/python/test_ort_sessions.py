"""How the library lives in its host: registration, sessions, threads, shapes."""

import gc
import re
import subprocess
import sys
import threading

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from ort_models import (
    HOST,
    LOSSES,
    OPERATORS,
    OPTIONAL,
    activation,
    is_gradient,
    library_path,
    make_feeds,
    make_model,
    make_session,
    oracle,
    run,
    session_options,
)


def test_registering_twice():
    options = session_options(registrations=3)
    for operator in OPERATORS:
        feeds = make_feeds(operator)
        np.testing.assert_allclose(run(make_session(make_model(operator), options), feeds), oracle(operator, feeds), 1e-5)


def test_registering_twice_after_others_have_registered():
    """Options of one process that hold the library at once, each twice, and sessions that were made in between."""
    model, feeds = make_model("SoftmaxFocalLoss"), make_feeds("SoftmaxFocalLoss")
    first, second = session_options(), session_options()
    sessions = [make_session(model, first)]
    for options in (second, first):
        options.register_custom_ops_library(library_path())
        sessions += [make_session(model, options) for options in (first, second)]
    assert len({run(session, feeds).tobytes() for session in sessions}) == 1


def test_many_sessions_from_one_and_from_many_options():
    shared = session_options()
    model, feeds = make_model("SigmoidFocalLoss"), make_feeds("SigmoidFocalLoss")
    sessions = [make_session(model, shared) for _ in range(5)] + [make_session(model) for _ in range(5)]
    results = {run(session, feeds).tobytes() for session in sessions}
    assert len(results) == 1


def test_sessions_come_and_go():
    """The host unloads the library with the last session and loads it again."""
    model, feeds = make_model("SoftmaxFocalLoss"), make_feeds("SoftmaxFocalLoss")
    expected = run(make_session(model), feeds)
    for _ in range(50):
        session = make_session(model)
        np.testing.assert_array_equal(run(session, feeds), expected)
        del session
        gc.collect()


def test_registration_from_many_threads():
    model, feeds = make_model("SigmoidFocalLoss"), make_feeds("SigmoidFocalLoss")
    results = run_together(8, lambda _: run(make_session(model), feeds).tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("operator", OPERATORS)
def test_concurrent_runs_of_one_session(operator, threads):
    session = make_session(make_model(operator, optional=("weight",)), session_options(threads))
    cases = [make_feeds(operator, optional=("weight",), rows=(500 + 300 * i,), classes=40, seed=i) for i in range(8)]
    expected = [run(session, feeds).tobytes() for feeds in cases]

    def work(i):
        return all(run(session, cases[i]).tobytes() == expected[i] for _ in range(20))

    assert all(run_together(8, work))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("operator", [operator for operator in OPERATORS if is_gradient(operator)])
def test_a_host_that_flushes_subnormals(operator, threads):
    """Where a session asks for that, its threads have the mode set; the operators give their own bits all the same."""
    model, feeds = make_model(operator), make_feeds(operator, rows=(3000,), classes=30)
    feeds["logits"] -= np.linspace(0, 36 if activation(operator) == "sigmoid" else 100, 30, dtype=np.float32)
    expected = run(make_session(model, session_options(threads)), feeds)
    assert np.any((expected != 0) & (np.abs(expected) < np.finfo(np.float32).tiny))
    options = session_options(threads)
    options.add_session_config_entry("session.set_denormal_as_zero", "1")

    # In a thread of its own, since the host leaves the mode with the thread that makes the session.
    flushed = run_together(1, lambda _: run(make_session(model, options), feeds))[0]
    assert flushed.tobytes() == expected.tobytes()


def test_a_failing_run_does_not_disturb_another():
    session = make_session(make_model("SigmoidFocalLoss"), session_options(2))
    good = make_feeds("SigmoidFocalLoss", rows=(3000,), classes=30)
    bad = {**good, "targets": good["targets"] + 1000}
    expected = run(session, good).tobytes()

    def work(i):
        for _ in range(30):
            if i % 2:
                with pytest.raises(Exception, match="1000|class index"):
                    run(session, bad)
            elif run(session, good).tobytes() != expected:
                return False
        return True

    assert all(run_together(6, work))


def run_together(count, work):
    results, barrier = [None] * count, threading.Barrier(count)

    def start(i):
        barrier.wait()
        results[i] = work(i)

    threads = [threading.Thread(target=start, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("operator", OPERATORS)
def test_one_session_serves_every_size(operator):
    """Neither rank nor sizes are known when the session is made."""
    session = make_session(make_model(operator))
    for rows in [(1,), (7,), (0,), (2, 3), (2, 1, 3), (100, 50), (3,)]:
        feeds = make_feeds(operator, rows=rows, classes=11)
        np.testing.assert_allclose(run(session, feeds), oracle(operator, feeds), 2e-5, 1e-9)


@pytest.mark.parametrize("operator", OPERATORS)
def test_dynamic_sizes(operator):
    shapes = {"logits": ["batch", "anchors", 11], "targets": ["batch", "anchors"]}
    session = make_session(make_model(operator, shapes=shapes))
    for rows in [(1, 1), (2, 30), (3, 0)]:
        feeds = make_feeds(operator, rows=rows, classes=11)
        np.testing.assert_allclose(run(session, feeds), oracle(operator, feeds), 2e-5, 1e-9)


@pytest.mark.parametrize("optional", [(), ("weight",)], ids=["plain", "gap"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_output_shape_is_inferred(operator, reduction, optional):
    """Where the host allows it safely: 1.24 and newer. Older ones must still load and run the model."""
    shapes = {"logits": ["batch", 7, "anchors", 3], "targets": ["batch", "anchors", 3]}
    stated = () if HOST < (1, 18) else None
    model = make_model(operator, optional=optional, shapes=shapes, output=stated, reduction=reduction, axis=1)
    (output,) = make_session(model).get_outputs()
    assert output.type == "tensor(float)"
    if HOST < (1, 24):
        return
    if is_gradient(operator):
        expected = shapes["logits"]
    elif reduction != "none":
        expected = []
    else:
        expected = shapes["logits"] if activation(operator) == "sigmoid" else ["batch", "anchors", 3]
    assert output.shape == expected


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_output_type_is_inferred(operator, dtype):
    (output,) = make_session(make_model(operator, dtype, output=None, shapes={"logits": ["n", 3]})).get_outputs()
    assert output.type == {"float16": "tensor(float16)", "float64": "tensor(double)"}[dtype]


@pytest.mark.parametrize("operator", LOSSES)
def test_unknown_rank_infers_nothing_wrong(operator):
    """An unknown rank looks like no axes; taking it for that would contradict the run."""
    stated = () if HOST < (1, 18) else None
    session = make_session(make_model(operator, output=stated, reduction="none"))
    feeds = make_feeds(operator, rows=(2, 3))
    np.testing.assert_allclose(run(session, feeds), oracle(operator, feeds, reduction="none"), 1e-5, 1e-9)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_rank_that_only_the_run_knows(operator):
    """Logits that a Reshape by an input makes: no inference of the host's can know their rank."""
    model = make_model(operator, output=() if HOST < (1, 18) else None)
    (node,) = model.graph.node
    node.input[list(node.input).index("logits")] = "shaped"
    model.graph.node.insert(0, helper.make_node("Reshape", ["logits", "shape"], ["shaped"]))
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, ["rank"]))
    session = make_session(model)
    for rows in [(6,), (2, 3), (2, 1, 3)]:
        feeds = make_feeds(operator, rows=rows)
        flat = {**feeds, "logits": feeds["logits"].reshape(-1), "shape": np.array(feeds["logits"].shape)}
        np.testing.assert_allclose(run(session, flat), oracle(operator, feeds), 1e-5, 1e-9)


@pytest.mark.parametrize("operator", OPERATORS)
def test_optional_inputs_may_be_named_empty_or_left_out(operator):
    model, feeds = make_model(operator), make_feeds(operator)
    expected = run(make_session(model), feeds)
    for _ in OPTIONAL:
        model.graph.node[0].input.append("")
        np.testing.assert_array_equal(run(make_session(model), feeds), expected)


def test_every_level_of_optimization():
    feeds = make_feeds("SigmoidFocalLoss")
    levels = ort.GraphOptimizationLevel
    results = set()
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_EXTENDED, levels.ORT_ENABLE_ALL):
        options = session_options()
        options.graph_optimization_level = level
        results.add(run(make_session(make_model("SigmoidFocalLoss"), options), feeds).tobytes())
    assert len(results) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
def test_the_library_needs_no_onnxruntime_and_exports_only_the_contract():
    needed = subprocess.run(["readelf", "-d", library_path()], capture_output=True, text=True, check=True).stdout
    assert "onnxruntime" not in needed
    assert "NODELETE" in needed
    symbols = subprocess.run(["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in symbols.stdout.splitlines()}
    assert "RegisterCustomOps" in names
    assert not [name for name in names if not re.fullmatch(r"RegisterCustomOps|focal_loss_\w+", name)]
