"""Two copies of the library in one process, as when two packages bring one each."""

import ctypes
import shutil

import numpy as np
import pytest
from focal_loss_ctypes import Library
from ort_models import library_path, make_feeds, make_model, make_session, oracle, run, session_options
from test_ort_sessions import run_together

LOGITS, TARGETS = make_feeds("SigmoidFocalLoss", rows=(3000,), classes=40).values()


@pytest.fixture
def copy(tmp_path):
    return shutil.copy(library_path(), tmp_path / "libanother.so")


def options_with(*paths):
    options = session_options(2, registrations=0)
    for path in paths:
        options.register_custom_ops_library(str(path))
    return options


def test_both_called_at_once(copy):
    libraries = [Library(library_path()), Library(copy)]
    functions = [ctypes.cast(library.lib.focal_loss_forward, ctypes.c_void_p).value for library in libraries]
    assert functions[0] != functions[1], "they are two"
    expected = libraries[0].forward_backward(LOGITS, TARGETS, num_threads=1)

    def work(i):
        library = libraries[i % 2]
        for _ in range(20):
            loss, grad = library.forward_backward(LOGITS, TARGETS)
            assert (loss.tobytes(), grad.tobytes()) == (expected[0].tobytes(), expected[1].tobytes())
            # A thread has a message for each.
            with pytest.raises(Exception, match="gamma"):
                library.forward(LOGITS, TARGETS, gamma=-1.0)
            assert libraries[1 - i % 2].lib.focal_loss_last_error_message() == b""
        return True

    assert all(run_together(8, work))


def test_each_in_sessions_of_its_own(copy):
    model, feeds = make_model("SigmoidFocalLoss"), {"logits": LOGITS, "targets": TARGETS}
    expected = run(make_session(model, options_with(library_path())), feeds)

    def work(i):
        options = options_with(copy if i % 2 else library_path())
        return all(run(make_session(model, options), feeds).tobytes() == expected.tobytes() for _ in range(10))

    assert all(run_together(8, work))


def test_both_in_one_session(copy):
    """The first to be registered serves."""
    feeds = make_feeds("SigmoidFocalLoss")
    for paths in [(library_path(), copy), (copy, library_path()), (copy, library_path(), copy)]:
        result = run(make_session(make_model("SigmoidFocalLoss"), options_with(*paths)), feeds)
        np.testing.assert_allclose(result, oracle("SigmoidFocalLoss", feeds), 1e-5)


@pytest.mark.parametrize("version", ["0.0.9", "1" * 200, ""])
def test_another_version_in_one_session(version):
    """What the copy of another version would have left behind."""
    options = session_options(registrations=0)
    options.add_session_config_entry("focal_loss.registered", version)
    expected = "operators of version 0.0.9 of this library, and this is" if version == "0.0.9" else None
    with pytest.raises(Exception, match=expected):
        options.register_custom_ops_library(library_path())
