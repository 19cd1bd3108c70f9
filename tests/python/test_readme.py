"""The README's programs do what they say."""

import pathlib
import re
import subprocess

import numpy as np
import pytest
from focal_loss_ctypes import Library, library_path
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]


def program(language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return text


def test_ten_lines_of_c(tmp_path):
    source, binary = tmp_path / "ten_lines.c", tmp_path / "ten_lines"
    source.write_text(
        '#include "focal_loss.h"\n#include <stdio.h>\nint main(void) {\n'
        + program("c")
        + '    printf("%.9g\\n", (double)loss);\n    return 0;\n}\n'
    )
    flags = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{ROOT / 'include'}"]
    folder = pathlib.Path(library_path()).resolve().parent
    link = [f"-L{folder}", "-lfocal_loss", f"-Wl,-rpath,{folder}"]
    subprocess.run(["gcc", *flags, source, "-o", binary, *link], check=True)
    printed = float(subprocess.run([binary], check=True, capture_output=True, text=True).stdout)
    logits = np.array([[2, -1, 0.5], [-3, -2, -4]], np.float32)
    assert np.float32(printed) == Library().forward(logits, np.array([0, 3]))


def test_the_same_in_cpp(tmp_path):
    source, binary = tmp_path / "same.cpp", tmp_path / "same"
    source.write_text(
        "#include <focal_loss.hpp>\n#include <cstdio>\n#include <vector>\nint main() {\n"
        + program("cpp")
        + '    std::printf("%.9g %.9g\\n", double(loss), double(gradient[0]));\n}\n'
    )
    flags = ["-std=c++17", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{ROOT / 'include'}"]
    folder = pathlib.Path(library_path()).resolve().parent
    link = [f"-L{folder}", "-lfocal_loss", f"-Wl,-rpath,{folder}"]
    subprocess.run(["g++", *flags, source, "-o", binary, *link], check=True)
    loss, gradient = map(float, subprocess.run([binary], check=True, capture_output=True, text=True).stdout.split())
    logits = np.array([[2, -1, 0.5], [-3, -2, -4]], np.float32)
    assert np.float32(loss) == Library().forward(logits, np.array([0, 3]))
    assert gradient == pytest.approx(-0.0012177350488481916 / 6, rel=1e-6)


def test_ten_lines_of_python(monkeypatch):
    monkeypatch.chdir(ROOT)
    photo = Image.open("onnx/sample/photos/grove.png").convert("RGB")
    image = np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 255
    targets = np.ones((1, 8640), np.int64)
    targets[0, :3] = 0, 0, -1
    names = {"image": image, "targets": targets}
    exec(program("python"), names)
    assert names["per_anchor"].shape == targets.shape and names["per_anchor"][0, 2] == 0
    assert names["loss"] == pytest.approx(names["per_anchor"].sum(dtype=np.float64) / 2, rel=1e-6)


def test_why_exported_losses_are_nan():
    """The numbers in that section: ONNX Runtime's sigmoid, and ours at a BlazeFace's lowest logit."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Sigmoid", ["x"], ["p"]), helper.make_node("Log", ["p"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph(nodes, "log_sigmoid", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (log,) = session.run(None, {"x": np.array([-18, -44], np.float32)})
    assert (log == -np.inf).all()

    lowest, library = np.array([[-16301]], np.float32), Library()
    for target, loss, gradient in ((1, 0, 0), (0, 4075.25, -0.25)):
        got = library.forward_backward(lowest, np.array([target]), reduction="sum")
        assert (float(got[0]), float(got[1][0, 0])) == (loss, gradient)
