"""What surrounds the training loop: progress, running out of memory, and the settings that change how it computes."""

from __future__ import annotations

import copy
import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from plain_network import CLASSES, SHAPE, cell
from torch import Tensor, nn
from unfinished_training import STEPS, fit, more_networks, on, result

from lat import defences, models, training
from lat.cells import Cell, Compute, Law, Schedule
from lat.defences.base import Defence
from lat.memory import EvaluationError, TrainingError
from lat.training import Progress

__all__ = ["more_networks"]

# Progress ------------------------------------------------------------------------------------------------------------


def heard(asked: Cell, images: Callable[[], tuple[Tensor, Tensor]]) -> tuple[list[Progress], training.Training]:
    said: list[Progress] = []
    done = training.fit(asked, 0, images(), images(), CLASSES, levels=255, progress=said.append)
    return said, done


def some() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (30, *SHAPE), generator=generator, dtype=torch.uint8)
    return x, torch.randint(CLASSES, (30,), generator=generator)


def test_progress_counts_the_running_epochs_steps_and_their_mean_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PROGRESS_S", 0.0)
    said, done = heard(cell("standard"), some)
    assert [(p.epoch, p.step, p.steps) for p in said] == [(e, s, STEPS) for e in (1, 2) for s in (1, 2, 3)]
    assert [said[2].loss, said[5].loss] == [epoch.loss for epoch in done.epochs]
    assert len({p.loss for p in said}) == 6
    assert all(p.images_per_s > 0 for p in said)


def test_progress_is_told_no_more_often_than_every_few_seconds_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, done = heard(cell("standard"), some)
    assert said == []
    clock = itertools.count(0.0, 0.75)
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    said, again = heard(cell("standard"), some)
    # The clock is read at the start, after each step, and in each report: at 0.75, 1.5, 2.25 s; and again from 3 s on.
    assert [(p.epoch, p.step) for p in said] == [(1, 3), (2, 3)]
    assert [p.images_per_s for p in said] == [3 * 8 / 3.0, 3 * 8 / 3.0]
    assert result(done) == result(again)


# Memory --------------------------------------------------------------------------------------------------------------


class Hungry(nn.Module):
    """A network that needs more memory than there is for more than four images."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.fc(x.flatten(1))


def test_running_out_of_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "hungry", lambda *_: Hungry())  # type: ignore[arg-type]
    with pytest.raises(TrainingError) as raised:
        fit(replace(cell("standard"), model="hungry"))
    assert str(raised.value) == (
        "batch: 8 images in a batch at width 5 do not fit into the memory of 'cpu' "
        "(CUDA out of memory. Tried to allocate 2.00 GiB.); lower batch or width"
    )


class Sated(nn.Module):
    """A network that needs more memory in eval mode than there is for more than so many images."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.fc, self.images = nn.Linear(6, CLASSES), images
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.seen.append(len(x))
            if len(x) > self.images:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.fc(x.flatten(1))


def test_the_evaluation_after_an_epoch_halves_its_batch_once_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = Sated(20), Sated(6)
    for model in (whole, cut):
        cut.load_state_dict(whole.state_dict())
        monkeypatch.setitem(models.MODELS, "sated", lambda *_, model=model: model)  # type: ignore[misc]
        first = copy.deepcopy(model.state_dict())
        done = fit(replace(cell("standard"), model="sated"))
        if model is whole:
            expected = result(done)
            whole.load_state_dict(first)
    assert result(done) == expected
    assert whole.seen == [20, 20]
    assert cut.seen == [20, 10, 5, 5, 5, 5, 5, 5, 5, 5]


def test_one_image_that_does_not_fit_after_an_epoch_is_no_matter_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "sated", lambda *_: Sated(0))  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="clean: memory ran out on a single image"):
        fit(replace(cell("standard"), model="sated"))


def test_weights_that_do_not_fit_are_a_matter_of_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    class Vast(Hungry):
        def to(self, *_: object, **__: object) -> Vast:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setitem(models.MODELS, "vast", lambda *_: Vast())  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"width: the weights of vast at width 5 .* of 'cpu' .*; lower width$"):
        fit(replace(cell("standard"), model="vast"))


def test_a_method_that_leaves_the_network_in_eval_mode_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Looking(Defence):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            self.model.eval()
            return super().loss(x, y)

    monkeypatch.setattr(defences, "DEFENCES", {**defences.DEFENCES, "standard": Looking})
    with pytest.raises(TrainingError, match=r"^method .standard. left the network in eval mode; put it back$"):
        fit(cell("standard"))


def test_other_errors_of_the_network_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Hungry):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setitem(models.MODELS, "broken", lambda *_: Broken())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="mat1") as raised:
        fit(replace(cell("standard"), model="broken"))
    assert not isinstance(raised.value, TrainingError)


# How it computes -----------------------------------------------------------------------------------------------------

LIGHT = {"bf16": Compute("bf16"), "channels_last": Compute(channels_last=True), "both": Compute("bf16", True)}


def coloured(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bytes (n, 3, 6, 6), each image brighter in the channel that is its label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    x = torch.randint(0, 128, (n, 3, 6, 6), generator=generator)
    return (x + 100 * nn.functional.one_hot(labels, 3)[:, :, None, None]).to(torch.uint8), labels


def light(compute: Compute, method: str = "standard") -> Cell:
    plan = Schedule(2, batch=8, lr=0.05, schedule="constant")
    small = Law("fixed", 0.01)  # a random epsilon would be another one in every setting, whose cell is another one
    laws = {"law": small, "input_law": small} if method != "standard" else {}
    asked = on("convolving", cell(method, **laws), ("0", "4"))  # type: ignore[arg-type]
    return replace(asked, width=4, schedule=plan, compute=compute)


def fit_coloured(asked: Cell) -> training.Training:
    return training.fit(asked, 0, coloured(64, 0), coloured(40, 1), CLASSES, levels=255)


@pytest.mark.usefixtures("more_networks")
@pytest.mark.parametrize("method", ["standard", "fgsm+layerwise"])
@pytest.mark.parametrize("name", LIGHT)
def test_a_convolutional_network_trains_in_every_light_setting_and_its_weights_stay_float32(
    name: str, method: str
) -> None:
    done = fit_coloured(light(LIGHT[name], method))
    assert done.epochs[-1].loss < done.epochs[0].loss / 10
    assert done.epochs[-1].clean_accuracy > 0.9
    assert not done.diverged
    floats = [t for t in done.model.state_dict().values() if t.is_floating_point()]
    assert all(t.dtype == torch.float32 for t in floats)
    plain = fit_coloured(light(Compute(), method))
    assert done.epochs[0].loss == pytest.approx(plain.epochs[0].loss, abs=0.01)
    if LIGHT[name].precision == "bf16":
        assert result(done) != result(plain)


@pytest.mark.usefixtures("more_networks")
def test_bf16_reaches_the_convolution_and_the_loss_stays_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.dtype, bool]] = []
    build = models.MODELS["convolving"]

    def watched(shape: tuple[int, ...], classes: int, width: int) -> nn.Module:
        model = build(shape, classes, width)
        model[0].register_forward_hook(lambda _, __, y: seen.append((y.dtype, model.training)))  # type: ignore[operator]
        return model

    monkeypatch.setitem(models.MODELS, "convolving", watched)  # type: ignore[arg-type]
    done = fit_coloured(light(Compute("bf16")))
    assert {dtype for dtype, trained in seen if trained} == {torch.bfloat16}
    assert {dtype for dtype, trained in seen if not trained} == {torch.float32}
    assert done.epochs[-1].loss != float(torch.tensor(done.epochs[-1].loss).bfloat16())
    assert math.isfinite(done.epochs[-1].loss)


@pytest.mark.usefixtures("more_networks")
def test_channels_last_is_how_convolutions_lie_in_memory() -> None:
    last, plain = (fit_coloured(light(Compute(channels_last=value))).model[0].weight for value in (True, False))  # type: ignore[index]
    assert last.is_contiguous(memory_format=torch.channels_last) and not last.is_contiguous()
    assert plain.is_contiguous()


def test_the_forward_pass_of_training_alone_is_compiled_in_the_mode_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    calls: list[bool] = []

    class Compiled(nn.Module):
        """Stands in for what torch.compile gives: a module around the module."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self._orig_mod = model

        def forward(self, x: Tensor) -> Tensor:
            calls.append(self._orig_mod.training)
            return self._orig_mod(x)

    def compile_it(model: nn.Module, *, mode: str) -> nn.Module:
        modes.append(mode)
        return Compiled(model)

    monkeypatch.setattr(torch, "compile", compile_it)
    plain = cell("fgsm")
    for mode in ("default", "reduce-overhead"):
        calls.clear()
        done = fit(replace(plain, compute=Compute(compile=mode)))
        assert calls == [True] * 2 * 2 * STEPS  # FGSM's gradient and the loss
        assert set(done.model.state_dict()) == set(fit(plain).model.state_dict())
    assert modes == ["default", "reduce-overhead"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own modules
def test_a_compiled_forward_pass_trains_the_same_network_up_to_rounding() -> None:
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("SKIPPED: torch.compile needs a C++ compiler on a CPU, and there is none")
    plain = cell("standard")
    torch._dynamo.reset()
    compiled, whole = (fit(replace(plain, compute=Compute(compile=mode))) for mode in ("default", "none"))
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] > 0, "nothing was compiled"
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert math.isclose(compiled.epochs[-1].loss, whole.epochs[-1].loss, rel_tol=1e-4)
