import pytest
from program_fixtures import program, tiny_cifar

from phenomena.errors import Diverged
from practicum.cards import load_card
from practicum.runs import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def jastrzebski(monkeypatch):
    module = program("jastrzebski2019sharpest")
    monkeypatch.setattr(module, "load", tiny_cifar)
    return module


def test_the_paper_scale_writes_what_the_card_reads_and_resumes(jastrzebski, tmp_path, monkeypatch):
    tiny = {"epochs": 1, "blocks": 1, "width": 2, "batch_size": 80, "n_curvature": 8, "chunk": 8, "folder": tmp_path}
    monkeypatch.setattr(jastrzebski, "K", 1)
    whole, calls = jastrzebski.image_run, []

    def stopping(*args):
        calls.append(args[2:4])
        if len(calls) == 3:
            raise Diverged("stop")
        return whole(*args)

    monkeypatch.setattr(jastrzebski, "image_run", stopping)
    with pytest.raises(Diverged):
        jastrzebski.cifar10(0, **tiny)
    values = jastrzebski.cifar10(0, **tiny)
    assert calls == [(0.001, 1), (0.01, 1), (0.1, 1), (0.1, 1), (0.01, 0.01), (0.01, 5)]  # two were kept
    assert len(list(tmp_path.iterdir())) == 5
    card = load_card(ROOT / "reproductions" / "jastrzebski2019sharpest" / "paper.yml")
    assert {key for claim in card.at("paper") for key in claim.keys} <= values.keys()
    assert values["peak_eta_0.01_gamma_1"] == max(values["lambda_eta_0.01_gamma_1"])
    assert len(values["loss_eta_0.1_gamma_1"]) == 2
    assert 0 <= values["best_eta_0.01_gamma_5"] <= 100
    assert jastrzebski.cifar10(0, **tiny) == values
    assert len(calls) == 6


def test_until_and_steps_until_by_hand(jastrzebski):
    losses = [2.0, 1.5, 0.5, 0.8, 0.2]
    assert jastrzebski.until([1.0, 4.0, 2.0, 9.0, 3.0], losses, 1.0) == 4.0
    assert jastrzebski.until([1.0, 4.0, 2.0, 9.0, 3.0], losses, 0.3) == 9.0
    assert jastrzebski.steps_until({"step": [0, 10, 20, 30, 40], "loss": losses}, 1.0) == pytest.approx(15.0)
    assert jastrzebski.steps_until({"step": [0, 10, 20, 30, 40], "loss": losses}, 3.0) == 0.0
    with pytest.raises(ValueError, match="never reaches"):
        jastrzebski.until([1.0, 2.0], [2.0, 1.5], 1.0)
