"""docs/troubleshooting.md has every error message, with a cause and a cure, and no other."""

import pathlib
import re

import messages

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"


def entries():
    """(cause, cure) by message: the rows of the tables whose first column is `message`."""
    found = {}
    inside = False
    for line in PAGE.read_text().splitlines():
        if line.startswith("| message |"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            message, cause, cure = (cell.strip() for cell in line.strip("| ").split(" | "))
            message = re.fullmatch(r"(`+)(.*)\1", message)[2]
            assert message not in found, f"{message!r} is there twice"
            found[message] = cause, cure
    return found


def test_every_message_has_an_entry_and_every_entry_a_message():
    said = messages.every()
    assert len(said) > 100
    listed = entries()
    missing = {message: sorted(where) for message, where in said.items() if message not in listed}
    assert not missing, f"docs/troubleshooting.md lacks: {missing}"
    stale = set(listed) - set(said)
    assert not stale, f"docs/troubleshooting.md has messages that nothing says: {stale}"


def test_every_entry_has_a_cause_and_a_cure():
    for message, (cause, cure) in entries().items():
        assert len(cause) > 1 and len(cure) > 1, message


def test_what_varies_does_not_hide_a_message():
    """Messages that are raised for real are found by their entries' words."""
    import numpy
    import pytest
    from focal_loss_onnx import attach
    from focal_loss_onnx.numpy import forward

    def entry_of(text):
        patterns = {message: ".*".join(map(re.escape, message.split("…"))) for message in entries()}
        return [message for message, pattern in patterns.items() if re.fullmatch(pattern, text, re.DOTALL) and message != "…: …"]

    logits, targets = numpy.zeros((2, 3), "float32"), numpy.array([0, 5])
    for call, words in [
        (lambda: forward(logits, targets), "class index"),
        (lambda: forward(logits, targets[:1]), "without class axis"),
        (lambda: forward(logits, targets, gamma=-1.0), "gamma is"),
        (lambda: forward(logits, targets, weight=numpy.zeros(4, "float32")), "does not broadcast"),
        (lambda: forward(logits.astype("uint8"), targets), "is none of float16"),
        (lambda: forward(logits.astype(">f4"), targets), "has the type"),
        (lambda: forward(logits, targets, reduction="all"), "must be one of"),
        (lambda: attach("onnx/sample/tree_detector.onnx", "nothing"), "no tensor named"),
    ]:
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        found = entry_of(str(caught.value))
        assert found and words in found[0], (str(caught.value), found)
