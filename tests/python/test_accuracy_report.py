"""docs/accuracy.md's script on fewer points: the promised bounds, and that the script notices when one is broken."""

import accuracy_report
import pytest


def test_the_bounds_hold(capsys):
    accuracy_report.main(["--short"])
    assert "| gamma | ours: max |" in capsys.readouterr().out


def test_a_wrong_loss_is_noticed(monkeypatch):
    honest = accuracy_report.our_sigmoid
    monkeypatch.setattr(accuracy_report, "our_sigmoid", lambda *given: [a * (1 + 2**-19) for a in honest(*given)])
    with pytest.raises(SystemExit, match="8 is promised"):
        accuracy_report.main(["--short"])


def test_a_wrong_oracle_is_noticed(monkeypatch):
    honest = accuracy_report.focal
    monkeypatch.setattr(accuracy_report, "focal", lambda z, gamma: [a * (1 + 1e-11) for a in honest(z, gamma)])
    with pytest.raises(SystemExit, match="float64 formulas"):
        accuracy_report.main(["--short"])
